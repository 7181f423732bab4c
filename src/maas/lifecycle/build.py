"""Build: from a spec to a trained model, its ONNX form, its signature and its evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maas.domain.errors import Conflict
from maas.domain.jobs import Progress
from maas.domain.models import Evidence, Task
from maas.domain.signature import Signature
from maas.lifecycle.spec import BuildSpec

__all__ = ["BuildCancelled", "BuildSpec", "Built", "Predictions", "build"]

Array = npt.NDArray[Any]


class BuildCancelled(Conflict):
    """The build was cancelled; starting it again goes on from its last checkpoint."""

    code = "cancelled"


@dataclass(frozen=True)
class Predictions:
    """What the model said about rows that it was not trained on."""

    y_true: Array
    """[n]; INT64 class index, or FP64 value in the target's units"""
    y_pred: Array
    """[n], like y_true"""
    y_score: npt.NDArray[np.float64] | None = None
    """[n, classes], each row sums to 1; None for a regression"""
    slices: dict[str, Array] = field(default_factory=dict)
    """By slice name: [n] of str"""


@dataclass(frozen=True)
class Built:
    """A built model with everything that publishing and evaluating it needs."""

    model: Any
    """The served nn.Module (raw inputs in, named outputs out) or the fitted estimator."""
    task: Task
    signature: Signature
    onnx_path: Path
    parity: dict[str, Any]
    """{max_abs_diff, max_rel_diff, rows, tolerance, passed}: ONNX beside the original."""
    training: dict[str, Any]
    """{curves: {loss, val_loss, learning_rate: one number per epoch}, epochs, best_epoch,
    stopped, seconds, seed, rows, parameters, …}"""
    test: Predictions
    """From the ONNX file, which is what will be served."""
    class_names: tuple[str, ...]
    background: npt.NDArray[np.float32]
    """Up to 100 training rows, for explanations."""
    metadata: dict[str, Any]
    """For the manifest: data digest, seeds, hyperparameters, versions of libraries."""
    evidence: tuple[Evidence, ...]
    """Kinds `parity` and `training`."""


def build(
    spec: BuildSpec,
    *,
    workdir: Path,
    report: Callable[[Progress], None] = lambda progress: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Built:
    """Trains and exports; goes on from `workdir` if a checkpoint of the same spec is there.

    Raises InvalidInput for a spec or data that cannot be built, BuildCancelled (with a
    checkpoint left behind), and InferenceFailed if the ONNX form answers differently.
    """
    raise NotImplementedError
