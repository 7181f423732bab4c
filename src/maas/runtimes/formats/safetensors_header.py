"""Reads and checks the header of a safetensors file, without the library.

Format: 8 bytes with the length of a JSON object, that object, then the data
(https://github.com/huggingface/safetensors#format). Uses the standard library and msgspec only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from maas.domain.errors import InvalidInput
from maas.domain.names import shown
from maas.runtimes.formats.gguf import Readable

MAX_HEADER_BYTES = 100_000_000
"""The library's own limit."""
MAX_TENSORS = 200_000
MAX_DIMENSIONS = 16

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4,
    "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32,
    "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip


_Count = Annotated[int, Meta(ge=0, le=1 << 48)]


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: Annotated[list[_Count], Meta(max_length=MAX_DIMENSIONS)]
    data_offsets: tuple[_Count, _Count]


_ENTRY = msgspec.json.Decoder(_Entry)


@dataclass(frozen=True)
class SafetensorsSummary:
    """The content of a valid header."""

    tensors: int
    parameters: int
    """Elements of all tensors."""
    types: dict[str, int]
    """Bytes per datatype."""
    header_bytes: int
    size: int
    """Size of the file in bytes."""


def check_safetensors(source: Path, name: str | None = None) -> SafetensorsSummary:
    """The summary of a safetensors file with a valid header.

    `name` is the name of the file in messages; default: its own. Raises InvalidInput if lengths,
    datatypes, shapes and offsets are inconsistent with each other or the size of the file.
    """
    with source.open("rb") as stream:
        return read_safetensors(stream, source.stat().st_size, name or source.name)


def read_safetensors(stream: Readable, size: int, name: str) -> SafetensorsSummary:
    """As `check_safetensors`, for an open file of `size` bytes that is at its start."""
    length = int.from_bytes(stream.read(8), "little")
    if size < 10 or length > MAX_HEADER_BYTES or 8 + length > size:
        raise _error(name, f"its header claims {length} bytes, and the file has {size}")
    header = _decoded(stream.read(length), name)
    data_bytes = size - 8 - length
    places: list[tuple[int, int, str]] = []
    types: dict[str, int] = {}
    parameters = 0
    for tensor, entry in header.items():
        elements = _elements(entry, data_bytes, tensor, name)
        begin, end = entry.data_offsets
        places.append((begin, end, tensor))
        types[entry.dtype] = types.get(entry.dtype, 0) + end - begin
        parameters += elements
    _check_order(sorted(places), data_bytes, name)
    return SafetensorsSummary(len(places), parameters, types, 8 + length, size)


def _decoded(text: bytes, name: str) -> dict[str, _Entry]:
    # Counted before parsing: a hundred megabytes of empty objects would be too many.
    if text.count(b"{") > MAX_TENSORS:
        raise _error(name, f"it claims more than {MAX_TENSORS} tensors")
    try:
        raw = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        raw.pop("__metadata__", None)
        return {tensor: _ENTRY.decode(entry) for tensor, entry in raw.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
        raise _error(name, f"its header is not valid JSON for this format ({wrong})") from None


def _elements(entry: _Entry, data_bytes: int, tensor: str, name: str) -> int:
    """Number of a tensor's elements. Raises InvalidInput if they do not match its offsets."""
    if entry.dtype not in _BITS:
        raise _error(name, f"tensor {shown(tensor)} has the unknown datatype {shown(entry.dtype)}")
    elements = math.prod(entry.shape)
    begin, end = entry.data_offsets
    if not begin <= end <= data_bytes or elements * _BITS[entry.dtype] != (end - begin) * 8:
        raise _error(
            name,
            f"tensor {shown(tensor)} claims bytes {begin} to {end} of {data_bytes}, which does not "
            "match its shape or the file",
        )
    return elements


def _check_order(places: list[tuple[int, int, str]], data_bytes: int, name: str) -> None:
    """Raises InvalidInput unless tensors fill the file; a gap could contain anything."""
    expected = 0
    for begin, end, tensor in places:
        if begin != expected:
            raise _error(name, f"tensor {shown(tensor)} overlaps another or leaves a gap")
        expected = end
    if expected != data_bytes:
        raise _error(name, f"{data_bytes - expected} bytes at its end belong to no tensor")


def _error(name: str, reason: str) -> InvalidInput:
    return InvalidInput(f"{name} is not a usable safetensors file: {reason}", field="files")
