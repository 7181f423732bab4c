"""Parity: the converted model against the original, on real rows and several batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from maas.domain.errors import InferenceFailed
from maas.domain.numbers import format_number

Array = npt.NDArray[Any]

TOLERANCE = 1e-4
"""Largest difference as a share of an output's largest value.

float32 rounds at 6e-8, and every layer adds to the error.
"""


def check_parity(
    expected: Mapping[str, Array],
    run: Callable[[dict[str, Array]], dict[str, Array]],
    inputs: Mapping[str, Array],
    tolerance: float = TOLERANCE,
) -> dict[str, Any]:
    """Runs batches of one row, two rows and all rows, and compares each with `expected`.

    Returns {max_abs_diff, max_rel_diff, rows, tolerance, passed}; max_rel_diff is the largest
    difference divided by the largest absolute value of that output. Raises InferenceFailed, which
    names the output and the row, if a difference exceeds the tolerance or a shape or dtype differs.
    """
    n = len(next(iter(inputs.values())))
    worst_abs = worst_rel = 0.0
    for rows in sorted({1, min(2, n), n}):
        answers = run({name: array[:rows] for name, array in inputs.items()})
        for name, all_rows in expected.items():
            expected_rows, actual = all_rows[:rows], answers[name]
            if actual.shape != expected_rows.shape or actual.dtype != expected_rows.dtype:
                raise InferenceFailed(
                    f"the ONNX form answers {rows} rows with {name} {actual.dtype}"
                    f"{list(actual.shape)}; the original with {expected_rows.dtype}"
                    f"{list(expected_rows.shape)}"
                )
            difference, row = _difference(expected_rows, actual)
            scale = _scale(all_rows)
            if not difference <= tolerance * scale:
                raise InferenceFailed(
                    f"the ONNX form differs from the original in {name}, row {row + 1} of "
                    f"{rows}, by {format_number(difference)}; at most "
                    f"{format_number(tolerance * scale)} is tolerated",
                    output=name,
                    max_abs_diff=difference if np.isfinite(difference) else None,
                )
            worst_abs = max(worst_abs, difference)
            worst_rel = max(worst_rel, difference / scale)
    return {
        "max_abs_diff": worst_abs,
        "max_rel_diff": worst_rel,
        "rows": n,
        "tolerance": tolerance,
        "passed": True,
    }


def _difference(expected: Array, actual: Array) -> tuple[float, int]:
    """The largest difference and its row; infinite if only one of two values is a number."""
    if expected.dtype.kind not in "fiub":
        unequal = (expected != actual).reshape(len(expected), -1).any(axis=1)
        return (np.inf, int(unequal.argmax())) if unequal.any() else (0.0, 0)
    a, b = expected.astype(np.float64), actual.astype(np.float64)
    with np.errstate(invalid="ignore"):
        distance = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    distance = np.where(np.isnan(distance), np.inf, distance).reshape(len(expected), -1)
    if not distance.size:
        return 0.0, 0
    return float(distance.max()), int(distance.max(axis=1).argmax())


def _scale(rows: Array) -> float:
    if rows.dtype.kind not in "f":
        return 1.0
    sizes = np.abs(rows[np.isfinite(rows)].astype(np.float64))
    largest = float(sizes.max()) if sizes.size else 1.0
    return largest or 1.0
