"""Parity: the converted model beside the original, on real rows and in batches of every kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from maas.domain.errors import InferenceFailed
from maas.domain.numbers import format_number

Array = npt.NDArray[Any]

TOLERANCE = 1e-4
"""Of an output's largest value: float32 rounds at 6e-8, and every layer adds to it."""


def check_parity(
    expected: Mapping[str, Array],
    run: Callable[[dict[str, Array]], dict[str, Array]],
    inputs: Mapping[str, Array],
    tolerance: float = TOLERANCE,
) -> dict[str, Any]:
    """Runs all rows at once, the first one and the first two, and compares with `expected`.

    Returns {max_abs_diff, max_rel_diff, rows, tolerance, passed}; max_rel_diff is the largest
    difference divided by the largest absolute value of that output. Raises InferenceFailed that
    names output and row where it is beyond the tolerance, or shape or type differ.
    """
    n = len(next(iter(inputs.values())))
    worst_abs = worst_rel = 0.0
    for rows in sorted({1, min(2, n), n}):
        answers = run({name: array[:rows] for name, array in inputs.items()})
        for name, all_rows in expected.items():
            wanted, got = all_rows[:rows], answers[name]
            if got.shape != wanted.shape or got.dtype != wanted.dtype:
                raise InferenceFailed(
                    f"the ONNX form answers {rows} rows with {name} {got.dtype}"
                    f"{list(got.shape)}; the original with {wanted.dtype}{list(wanted.shape)}"
                )
            difference, row = _difference(wanted, got)
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


def _difference(wanted: Array, got: Array) -> tuple[float, int]:
    """The largest difference and its row; infinite where only one is a number."""
    if wanted.dtype.kind not in "fiub":
        unequal = (wanted != got).reshape(len(wanted), -1).any(axis=1)
        return (np.inf, int(unequal.argmax())) if unequal.any() else (0.0, 0)
    a, b = wanted.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore"):
        distance = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    distance = np.where(np.isnan(distance), np.inf, distance).reshape(len(wanted), -1)
    if not distance.size:
        return 0.0, 0
    return float(distance.max()), int(distance.max(axis=1).argmax())


def _scale(rows: Array) -> float:
    if rows.dtype.kind not in "f":
        return 1.0
    sizes = np.abs(rows[np.isfinite(rows)].astype(np.float64))
    largest = float(sizes.max()) if sizes.size else 1.0
    return largest or 1.0
