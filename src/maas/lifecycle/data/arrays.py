"""Checks of a caller's arrays before anything is computed from them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from maas.domain.errors import InvalidInput
from maas.domain.names import shown
from maas.lifecycle.metrics.metrics import Floats, Ints

MOST_CLASSES = 10_000


def numbers(values: npt.ArrayLike, field: str, rows: int | None) -> Floats:
    """`values` as finite numbers [n, targets]. Raises InvalidInput that names `field`."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidInput(f"{field} must be numbers; got {shown(values)}", field=field) from None
    if array.ndim not in (1, 2) or (rows is not None and len(array) != rows):
        count = "n" if rows is None else str(rows)
        raise InvalidInput(
            f"{field} must have shape [{count}] or [{count}, columns]; got {list(array.shape)}",
            field=field,
        )
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0])
        raise InvalidInput(f"{field} must be finite; row {row} is not", field=field)
    return array.reshape(len(array), -1)


def class_indices(values: npt.ArrayLike, field: str, rows: int | None) -> Ints:
    """`values` as class indices [n], whole numbers from 0. Raises InvalidInput."""
    column = numbers(values, field, rows)
    if column.shape[1] != 1 or (column < 0).any() or (column != np.floor(column)).any():
        raise InvalidInput(f"{field} must be class indices, whole numbers from 0", field=field)
    if column.max() >= MOST_CLASSES:
        raise InvalidInput(
            f"{field} has class index {int(column.max())}, over {MOST_CLASSES}", field=field
        )
    return column[:, 0].astype(np.int64)


def class_scores(values: npt.ArrayLike | None, field: str, rows: int) -> Floats | None:
    """`values` as scores [n, k]; a single column, of class 1, becomes two."""
    if values is None:
        return None
    scores = numbers(values, field, rows)
    if scores.shape[1] > 1:
        return scores
    within = (scores >= 0).all() and (scores <= 1).all()
    return np.hstack([1 - scores if within else -scores, scores])


def are_probabilities(scores: Floats) -> bool:
    """Whether scores are in [0, 1] and add up to 1 per row, within the precision of float32."""
    within = (scores >= 0).all() and (scores <= 1).all()
    return bool(within and np.allclose(scores.sum(axis=1), 1, rtol=0, atol=1e-4))
