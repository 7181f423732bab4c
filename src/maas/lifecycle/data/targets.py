"""Conversion of cells to numbers and of targets to classes; errors name the column and the row."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from maas.domain.errors import InvalidInput
from maas.domain.models import Task
from maas.domain.names import shown
from maas.lifecycle.data.spec import DataSource

Array = npt.NDArray[Any]

MOST_AUTOMATIC_CLASSES = 20


def finite_floats(values: Array, name: str) -> npt.NDArray[np.float32]:
    """`values` as finite float32 numbers.

    Raises InvalidInput that names the first row, counted from 1, without such a number.
    """
    if not _is_numeric(values):
        try:
            values = values.astype(np.float64)
        except (ValueError, TypeError):
            cells = values.ravel().tolist()
            at = next(i for i, cell in enumerate(cells) if not _is_number(cell))
            raise _unfit(
                name, at * len(values) // len(cells), "a number", _cell(cells[at])
            ) from None
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32)
    finite = np.isfinite(numbers)
    if not finite.all():
        at = int(np.flatnonzero(~finite.ravel())[0])
        row = at * len(values) // values.size
        raise _unfit(name, row, "a finite 32-bit number", str(values.ravel()[at]))
    return numbers


def encode_target(
    y: Array, name: str, source: DataSource, names: tuple[str, ...]
) -> tuple[Array, Task, tuple[str, ...]]:
    """The target as INT64 class index or FP32 number, the task, and the class names.

    `names` are the class names in the data; `source.classes` takes precedence.
    """
    names = source.classes or names
    if not _is_numeric(y) and all(_is_number(cell) for cell in y):
        y = y.astype(np.float64)
    is_fraction = y.dtype.kind == "f" and not np.array_equal(y, np.round(y))
    if source.task == "auto":
        few = not is_fraction and len(np.unique(y)) <= MOST_AUTOMATIC_CLASSES
        is_class = bool(names) or not _is_numeric(y) or few
    else:
        is_class = source.task == "classification"
    if not is_class:
        return finite_floats(y, name), Task.REGRESSION, ()
    indices, classes = _class_indices(y, name, names)
    return indices, Task.BINARY if len(classes) == 2 else Task.MULTICLASS, classes


def _class_indices(y: Array, name: str, names: tuple[str, ...]) -> tuple[Array, tuple[str, ...]]:
    if y.dtype.kind == "f":
        finite_floats(y, name)
        fractions = np.flatnonzero(y != np.round(y))
        for row in fractions[:1]:
            raise _unfit(name, row, "a class: text or a whole number", str(y[row]))
        y = y.astype(np.int64)
    for row in np.flatnonzero(y == "")[:1] if y.dtype.kind in "UO" else ():
        raise _unfit(name, row, "a class", "an empty cell")
    values, indices = np.unique(y, return_inverse=True)
    names_in_data = [str(value) for value in values]
    if len(names_in_data) < 2:
        raise InvalidInput(
            f"column {shown(name)}: at least 2 classes are needed; every row is {names_in_data[0]}",
            field=name,
        )
    if not names or names_in_data == list(names):
        return indices.astype(np.int64), tuple(names_in_data)
    if (
        not set(names_in_data) <= set(names)
        and y.dtype.kind in "iu"
        and set(values) <= {*range(len(names))}
    ):
        return y.astype(np.int64), names  # the data holds indices of the names
    positions = []
    for text in names_in_data:
        if text not in names:
            row = int(np.flatnonzero(indices == names_in_data.index(text))[0])
            raise _unfit(name, row, f"one of the classes {', '.join(names)}", shown(text))
        positions.append(names.index(text))
    return np.array(positions, dtype=np.int64)[indices], names


def _unfit(name: str, row: int, expected: str, actual: str) -> InvalidInput:
    return InvalidInput(
        f"column {shown(name)}, row {row + 1}: expected {expected}, found {actual}",
        field=name,
        row=int(row) + 1,
    )


def _cell(value: object) -> str:
    return "an empty cell" if value in ("", None) else shown(value)


def _is_numeric(values: Array) -> bool:
    return values.dtype.kind in "fiub"


def _is_number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True
