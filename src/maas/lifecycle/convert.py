"""Convert: a trained model into one ONNX file that is proven to answer as the model does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from maas.domain.models import Task
from maas.domain.signature import Signature

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Names:
    """How a model's tensors are called and labelled in its signature."""

    input: str = "x"
    output: str = "prediction"
    """A regression's output; a classification has `label` and `probabilities`."""
    features: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    input_units: str | None = None
    output_units: str | None = None


@dataclass(frozen=True)
class Converted:
    path: Path
    signature: Signature
    parity: dict[str, Any]
    """{max_abs_diff, max_rel_diff, rows, tolerance, passed}"""
    task: Task


def torch_to_onnx(
    module: torch.nn.Module,
    example_rows: Sequence[Array],
    path: Path,
    input_names: Sequence[str],
    output_names: Sequence[str] = (),
) -> Converted:
    """Writes `module` to `path` and checks it on the rows; `example_rows`: one [n, …] per input.

    Outputs are called `output`, or `output_0`…, without `output_names`.
    Raises InvalidInput if torch cannot export the module, InferenceFailed if the file differs.
    """
    raise NotImplementedError


def sklearn_to_onnx(
    estimator: Any, example_rows: Array, path: Path, names: Names | None = None
) -> Converted:
    """Writes a fitted estimator or Pipeline to `path` and checks it on the rows [n, features]."""
    raise NotImplementedError


def signature_of_onnx(path: Path, example: dict[str, Any] | None = None) -> Signature:
    """The signature of an ONNX file; `example` is one row per input in JSON form.

    Raises InvalidInput if its first dimension is fixed beyond 1 or a type is not servable.
    """
    raise NotImplementedError


def parity(
    expected: Sequence[Array], path: Path, inputs: dict[str, Array], tolerance: float = 1e-4
) -> dict[str, Any]:
    """Runs the file at batch 1, 2 and n and compares with what the original answered for n rows.

    `tolerance` holds for |onnx - original| / max(1, |original|). Raises InferenceFailed beyond it.
    """
    raise NotImplementedError
