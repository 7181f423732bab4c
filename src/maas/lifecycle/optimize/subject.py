"""The model under optimization, and the rows to calibrate, train and judge candidates with."""

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
"""Most numbers in all calibration rows: 64 MB, of which a calibration keeps a few copies."""
LEAST_CALIBRATION_ROWS = 64
LEAST_TEST_ROWS = 2


class NotApplicable(InvalidInput):
    """A method of making candidates does not apply to this model."""

    code = "not_applicable"


@dataclass(frozen=True)
class Training:
    """Training of the original, for candidates that are trained again."""

    served: ServedModel
    """Never modified; candidates are made from copies."""
    spec: BuildSpec
    parts: Split


@dataclass(frozen=True)
class Subject:
    """A version's first variant, with everything that is needed to make others from it."""

    original: Candidate
    signature: Signature
    rows: EvaluationRows
    """Rows to judge candidates on; never used to calibrate or train."""
    calibration: Mapping[str, Array]
    """Rows [n, …] for each input, to calibrate candidates with."""
    training: Training | None = None
    """None: only methods that need nothing but an ONNX file."""
    estimator: Any = None
    """Fitted scikit-learn estimator, to compare its speed and answers with ONNX."""
    how: Mapping[str, Any] = field(default_factory=dict)
    """Origin of the rows: digest, counts, and the reason for methods that are skipped."""

    @property
    def model_path(self) -> Path:
        """The original's only file, an ONNX file."""
        return next(iter(self.original.files.values()))


def subject_of_rows(
    original: Candidate,
    signature: Signature,
    task: Task,
    data: tuple[Array, Array | None],
    class_names: tuple[str, ...] = (),
) -> Subject:
    """Subject for a version whose own data is not on this machine.

    `data`: rows X [n, …] from the owner, and labels y [n] or None. At most a fifth of the rows,
    chosen at random, is used to calibrate, and all others to judge. Without y, candidates are
    judged by how often they agree with the original. Raises InvalidInput.
    """
    rows, labels = data
    if labels is not None and len(labels) != len(rows):
        raise InvalidInput(
            f"X and y must have the same number of rows; got {len(rows)} and {len(labels)}",
            field="data",
        )
    calibration_count = min(len(rows) // 5, _most_calibration(rows))
    if len(rows) - calibration_count < LEAST_TEST_ROWS:
        raise InvalidInput(
            f"at least {LEAST_TEST_ROWS} rows are needed to judge a candidate; got {len(rows)}",
            field="data",
        )
    calibration_count = max(1, calibration_count)
    order = np.random.default_rng(0).permutation(len(rows))
    calibrating, judging = order[:calibration_count], order[calibration_count:]
    inputs = named_rows(signature, rows)
    digest = digest_of(rows, labels)
    return Subject(
        original=original,
        signature=signature,
        rows=EvaluationRows(
            inputs={name: values[judging] for name, values in inputs.items()},
            y=None if labels is None else labels[judging],
            task=task,
            class_names=class_names,
            digest=digest,
        ),
        calibration={name: values[calibrating] for name, values in inputs.items()},
        how={
            "data_digest": digest,
            "rows": {"calibration": len(calibrating), "test": len(judging)},
            "labels": "provided" if labels is not None else "none: judged by agreement",
            "skipped": "pruning, fine-tuning and distillation need the build's own data and "
            "network, which are not on this machine",
        },
    )


def calibration_rows(signature: Signature, parts: Split) -> dict[str, Array]:
    """Rows for each input, from the validation part and, if it is small, the training part."""
    x = parts.validation.x if len(parts.validation) else parts.train.x
    most = _most_calibration(x)
    if len(x) < min(most, LEAST_CALIBRATION_ROWS):
        x = np.concatenate([x, parts.train.x[: most - len(x)]])
    return named_rows(signature, x[:most])


def digest_of(rows: Array, labels: Array | None) -> str:
    """SHA-256 over shapes, datatypes and bytes."""
    digest = hashlib.sha256()
    for array in (rows, labels):
        if array is not None:
            values = np.ascontiguousarray(array)
            digest.update(f"{values.dtype}{values.shape}".encode())
            if values.dtype == object:
                digest.update("\0".join(str(v) for v in values.ravel()).encode())
            else:
                digest.update(values.tobytes())
    return digest.hexdigest()


def read_rows(path: Path) -> tuple[Array, Array | None]:
    """X and y of an NPZ file; y is None if the file has none. Raises InvalidInput."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            by_name = {name.lower(): arrays[name] for name in arrays.files}
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} must be an NPZ file with X and y: {error}") from None
    unknown = sorted(by_name.keys() - {"x", "y"})
    if "x" not in by_name or unknown:
        raise InvalidInput(
            f"{path} must contain an array X, and y if there are labels; it contains "
            f"{', '.join(shown(name) for name in by_name)}",
            field="data",
        )
    return by_name["x"], by_name.get("y")


def _most_calibration(rows: Array) -> int:
    numbers = max(1, int(np.prod(rows.shape[1:])))
    return max(1, min(CALIBRATION_ROWS, CALIBRATION_NUMBERS // numbers))
