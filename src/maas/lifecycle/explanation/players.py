"""Players of the Shapley game: single input entries, or groups that move together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from maas.domain.errors import InvalidInput
from maas.domain.names import shown
from maas.domain.signature import Signature, TensorSpec

Array = npt.NDArray[Any]
Region = tuple[tuple[int, int], ...]

MOST_PLAYERS = 1024
"""Largest number of players of one input that is not an image; larger inputs group neighbors."""
PAIRS_PER_PATCH = 8
"""Pairs of permutations that the budget must allow; determines the size of an image's patches."""
SMALLEST_SIDE = 4
MOST_BACKGROUND_ROWS = 10_000


@dataclass(frozen=True)
class Image:
    """Layout of an input's row as an image."""

    input: str
    height: int
    width: int
    channels: int
    layout: str
    """`hw`, `chw` or `hwc`"""
    patch: int
    """Side of the squares that move together, in pixels; 1: each pixel is a player."""

    @property
    def shape(self) -> tuple[int, ...]:
        sides = {"c": self.channels, "h": self.height, "w": self.width}
        return tuple(sides[axis] for axis in self.layout)

    def plane(self, region: Region) -> Region:
        """Rows and columns of a region."""
        return region[self.layout.index("h")], region[self.layout.index("w")]


@dataclass(frozen=True)
class Player:
    name: str
    input: str
    region: Region
    """[start, stop) along each axis of `shape`"""
    shape: tuple[int, ...]
    units: str | None

    @cached_property
    def entries(self) -> npt.NDArray[np.intp]:
        """Flat indices within the input's row."""
        whole = np.arange(math.prod(self.shape)).reshape(self.shape)
        indices: npt.NDArray[np.intp] = whole[tuple(slice(a, b) for a, b in self.region)].ravel()
        return indices


def players_of(
    spec: TensorSpec, shape: tuple[int, ...], *, image: Image | None, alone: bool
) -> Iterator[Player]:
    """Players of one input: its entries, an image's patches, or runs of neighboring entries.

    `alone`: there is no other input, so names of features need no name of the input.
    """
    if image:
        axes = [_spans(n, image.patch) for n in (image.height, image.width)]
        for rows in axes[0]:
            for columns in axes[1]:
                spans = {"h": rows, "w": columns, "c": (0, image.channels)}
                region = tuple(spans[axis] for axis in image.layout)
                name = f"{spec.name}[{_span_text(rows)}, {_span_text(columns)}]"
                yield Player(name, spec.name, region, image.shape, spec.units)
        return
    size = math.prod(shape)
    if size > MOST_PLAYERS:
        for span in _spans(size, math.ceil(size / MOST_PLAYERS)):
            yield Player(
                f"{spec.name}[{_span_text(span)}]", spec.name, (span,), (size,), spec.units
            )
        return
    for place in np.ndindex(*shape):
        region = tuple((i, i + 1) for i in place)
        yield Player(_entry_name(spec, shape, place, alone), spec.name, region, shape, spec.units)


def _entry_name(
    spec: TensorSpec, shape: tuple[int, ...], place: tuple[int, ...], alone: bool
) -> str:
    if shape and len(spec.labels) == shape[-1]:
        label = spec.labels[place[-1]]
        before = ", ".join(str(i) for i in place[:-1])
        name = f"{label}[{before}]" if before else label
        return name if alone else f"{spec.name}.{name}"
    if math.prod(shape) == 1:
        return spec.name
    return f"{spec.name}[{', '.join(str(i) for i in place)}]"


def _spans(size: int, step: int) -> list[tuple[int, int]]:
    return [(start, min(start + step, size)) for start in range(0, size, step)]


def _span_text(span: tuple[int, int]) -> str:
    return str(span[0]) if span[1] == span[0] + 1 else f"{span[0]}:{span[1]}"


def image_of(
    signature: Signature, row: Mapping[str, Array], hint: tuple[int, ...] | None, budget: int
) -> Image | None:
    """The first input that is an image: of the hinted size or, without a hint, of rank 2 or 3.

    Raises InvalidInput if the hint fits no input.
    """
    if hint is not None and not (len(hint) in (2, 3) and all(n > 0 for n in hint)):
        raise InvalidInput(
            f"image_shape must be 2 or 3 sizes ≥ 1; got {list(hint)}", field="image_shape"
        )
    for spec in signature.inputs:
        value = row[spec.name]
        if spec.datatype == "BYTES":
            continue
        if hint is not None and value.size == math.prod(hint):
            return _layout(spec.name, hint, budget)
        if hint is None and value.ndim in (2, 3):
            image = _layout(spec.name, value.shape, budget)
            if min(image.height, image.width) >= SMALLEST_SIDE:
                return image
    if hint is not None:
        raise InvalidInput(
            f"image_shape {list(hint)} has {math.prod(hint)} entries; no input has that number",
            field="image_shape",
        )
    return None


def _layout(name: str, shape: tuple[int, ...], budget: int) -> Image:
    few = (1, 3, 4)
    if len(shape) == 2:
        layout, channels, (height, width) = "hw", 1, shape
    elif shape[-1] in few and shape[0] not in few:
        layout, (height, width, channels) = "hwc", shape
    else:
        layout, (channels, height, width) = "chw", shape
    most = max(16, budget // (2 * PAIRS_PER_PATCH))
    patch = 1
    while math.ceil(height / patch) * math.ceil(width / patch) > most:
        patch += 1
    return Image(name, height, width, channels, layout, patch)


def one_row(spec: TensorSpec, value: Any) -> Array:
    """One row of the input in its dtype, without a batch dimension.

    Raises InvalidInput that names the input, the expected shape and the actual one.
    """
    field = f"inputs.{spec.name}"
    if value is None:
        raise InvalidInput(f"{field} is missing", field=field)
    row = _numbers(spec, value, field, whole=True)
    if spec.shape == (1,) and row.ndim == 0:
        row = row.reshape(1)
    if row.ndim == len(spec.shape) + 1 and len(row) == 1:
        row = row.reshape(row.shape[1:])  # indexing would turn an array of one text into a str
    if not _fits(row.shape, spec.shape):
        raise InvalidInput(
            f"{field} must be one row of shape {list(spec.shape)}; got {list(row.shape)}",
            field=field,
        )
    return row


def rows_of(spec: TensorSpec, value: Any, shape: tuple[int, ...]) -> Array:
    """Background rows [m, *shape] in the input's dtype, rounded if that is an integer."""
    field = f"background.{spec.name}"
    rows = _numbers(spec, value, field, whole=False)
    if shape == (1,) and rows.ndim == 1:
        rows = rows.reshape(-1, 1)
    if rows.shape == shape:
        rows = rows[None]
    if rows.shape[1:] != shape or not 1 <= len(rows) <= MOST_BACKGROUND_ROWS:
        raise InvalidInput(
            f"{field} must be 1 to {MOST_BACKGROUND_ROWS} rows of shape {list(shape)}; "
            f"got {list(rows.shape)}",
            field=field,
        )
    return rows


def _fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return len(shape) == len(expected) and all(
        w in (-1, n) for n, w in zip(shape, expected, strict=True)
    )


def _numbers(spec: TensorSpec, value: Any, field: str, *, whole: bool) -> Array:
    """`value` in the input's dtype, finite and in range."""
    if spec.datatype == "BYTES":
        return np.asarray(value, dtype=object)
    try:
        array = np.asarray(value)
    except ValueError:
        raise InvalidInput(f"{field} is a ragged list", field=field) from None
    if array.dtype.kind not in "biuf" or array.size == 0:
        raise InvalidInput(f"{field} must be numbers; got {shown(value)}", field=field)
    if not np.isfinite(array).all():
        raise InvalidInput(f"{field} must be finite", field=field)
    if spec.datatype.startswith("FP"):
        limit = float(np.finfo(spec.dtype.numpy).max)
        low, high = -limit, limit
    elif spec.datatype == "BOOL":
        low, high = 0, 1
    else:
        info = np.iinfo(spec.dtype.numpy)
        low, high = int(info.min), int(info.max)
        if whole and (array != np.floor(array)).any():
            raise InvalidInput(f"{field} must be whole numbers", field=field)
    if array.min() < low or array.max() > high:
        raise InvalidInput(f"{field} must be from {low} to {high}", field=field)
    if array.dtype.kind == "f" and not spec.datatype.startswith("FP"):
        array = np.rint(array)
    return array.astype(spec.dtype.numpy)
