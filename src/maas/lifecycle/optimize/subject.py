"""What is to be optimized, and the rows to do and to judge it with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maas.domain.errors import InvalidInput
from maas.domain.models import Task
from maas.domain.names import shown
from maas.domain.signature import Signature
from maas.lifecycle.measure import named_rows
from maas.lifecycle.optimize.results import Candidate, EvaluationRows

if TYPE_CHECKING:
    from maas.lifecycle.data.dataset import Split
    from maas.lifecycle.data.spec import BuildSpec
    from maas.lifecycle.training.families import ServedModel

Array = npt.NDArray[Any]

CALIBRATION_ROWS = 256
CALIBRATION_NUMBERS = 16 << 20
"""Of all calibration rows together: 64 MB, of which a calibration keeps a few copies."""
LEAST_TEST_ROWS = 2


class NotApplicable(InvalidInput):
    """This way of making a candidate is none for this model."""

    code = "not_applicable"


@dataclass(frozen=True)
class Training:
    """How the original came to be, for candidates that are trained again."""

    served: ServedModel
    """Never changed: candidates are made from copies."""
    spec: BuildSpec
    parts: Split


@dataclass(frozen=True)
class Subject:
    """A version's first variant with what is needed to make others of it."""

    original: Candidate
    signature: Signature
    rows: EvaluationRows
    """Judged on; never calibrated or trained on."""
    calibration: Mapping[str, Array]
    """By input name: [n, …] rows that the model may see."""
    training: Training | None = None
    """None: only what an ONNX file alone allows."""
    estimator: Any = None
    """The fitted scikit-learn estimator, to compare its speed and answers with ONNX."""
    how: Mapping[str, Any] = field(default_factory=dict)
    """Where the rows are from: digest, counts, and what was not possible."""

    @property
    def model_path(self) -> Path:
        """The original's one ONNX file."""
        return next(iter(self.original.files.values()))


def subject_of_rows(
    original: Candidate,
    signature: Signature,
    task: Task,
    data: tuple[Array, Array | None],
    class_names: tuple[str, ...] = (),
) -> Subject:
    """A version whose data are not here, with rows from its owner: X [n, …] and y [n] or None.

    The first rows, at most a fifth, calibrate, and the others judge. Without y the judge is how
    often a candidate agrees with the original.
    """
    rows, labels = data
    if labels is not None and len(labels) != len(rows):
        raise InvalidInput(f"X has {len(rows)} rows and y has {len(labels)}", field="data")
    held = min(len(rows) // 5, _most_calibration(rows))
    if len(rows) - held < LEAST_TEST_ROWS:
        raise InvalidInput(
            f"at least {LEAST_TEST_ROWS} rows are needed to judge a candidate; got {len(rows)}",
            field="data",
        )
    order = np.random.default_rng(0).permutation(len(rows))
    first, rest = order[: max(1, held)], order[max(1, held) :]
    wanted = named_rows(signature, rows)
    digest = digest_of(rows, labels)
    return Subject(
        original=original,
        signature=signature,
        rows=EvaluationRows(
            inputs={name: values[rest] for name, values in wanted.items()},
            y=None if labels is None else labels[rest],
            task=task,
            class_names=class_names,
            digest=digest,
        ),
        calibration={name: values[first] for name, values in wanted.items()},
        how={
            "data_digest": digest,
            "rows": {"calibration": len(first), "test": len(rest)},
            "labels": "given" if labels is not None else "none: judged by agreement",
            "skipped": "pruning, fine-tuning and distillation need the build's own data and "
            "network, which are not on this machine",
        },
    )


def calibration_rows(signature: Signature, parts: Split) -> dict[str, Array]:
    """Held-out training rows: those of the validation part first, never those of the test part."""
    x = parts.validation.x if len(parts.validation) else parts.train.x
    most = _most_calibration(x)
    if len(x) < min(most, 64):
        x = np.concatenate([x, parts.train.x[: most - len(x)]])
    return named_rows(signature, x[:most])


def digest_of(rows: Array, labels: Array | None) -> str:
    """SHA-256 over shapes, datatypes and bytes."""
    found = hashlib.sha256()
    for array in (rows, labels):
        if array is not None:
            values = np.ascontiguousarray(array)
            found.update(f"{values.dtype}{values.shape}".encode())
            if values.dtype == object:
                found.update("\0".join(str(v) for v in values.ravel()).encode())
            else:
                found.update(values.tobytes())
    return found.hexdigest()


def read_rows(path: Path) -> tuple[Array, Array | None]:
    """X and, where there is one, y of an NPZ file. Raises InvalidInput."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            by_name = {name.lower(): arrays[name] for name in arrays.files}
    except (OSError, ValueError) as wrong:
        raise InvalidInput(f"{path} must be an NPZ file with X and y: {wrong}") from None
    unknown = sorted(by_name.keys() - {"x", "y"})
    if "x" not in by_name or unknown:
        raise InvalidInput(
            f"{path} must have an array X, and y if there are labels; it has "
            f"{', '.join(shown(name) for name in by_name)}",
            field="data",
        )
    return by_name["x"], by_name.get("y")


def _most_calibration(rows: Array) -> int:
    numbers = max(1, int(np.prod(rows.shape[1:])))
    return max(1, min(CALIBRATION_ROWS, CALIBRATION_NUMBERS // numbers))
