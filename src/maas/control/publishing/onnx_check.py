"""Check of an ONNX file for references to other files, without an ONNX library.

The file is a protobuf message. Only fields that can contain a tensor, a node or a graph are parsed
(numbers from onnx.proto3, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3). All others are
skipped by their length, so the time depends on the size of the graph and not of the weights.
"""

from __future__ import annotations

import mmap
from pathlib import Path

from maas.domain.errors import InvalidInput, UnsafeArtifact

MAX_DEPTH = 64
MAX_FIELDS = 5_000_000

_ENTERED: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
}
_IR_VERSION, _GRAPH = 1, 7
_EXTERNAL_DATA, _DATA_LOCATION, _EXTERNAL = 13, 14, 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_onnx(path: Path, name: str) -> None:
    """Raises UnsafeArtifact if a tensor's data is in another file, InvalidInput if `path` is not an
    ONNX file. Messages call the file `name`."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise _garbage(name)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _walk(data, name)


def _walk(data: mmap.mmap, name: str) -> None:
    top_level: set[int] = set()
    fields = 0
    pending = [("model", 0, len(data), 0)]
    while pending:
        message, at, end, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise InvalidInput(f"the ONNX model {name} is nested more than {MAX_DEPTH} levels deep")
        while at < end:
            fields += 1
            if fields > MAX_FIELDS:
                raise InvalidInput(f"the ONNX model {name} has more than {MAX_FIELDS} fields")
            tag, at = _varint(data, at, end, name)
            number, wire = tag >> 3, tag & 7
            if message == "model":
                top_level.add(number)
            value, start, at = _field(data, at, end, wire, name)
            if message == "tensor" and (
                number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value == _EXTERNAL)
            ):
                raise UnsafeArtifact(
                    f"{name}: a tensor's data is in another file; save the model in a single "
                    "file (in onnx: save_model(..., save_as_external_data=False))"
                )
            entered = _ENTERED[message].get(number)
            if entered and wire == _BYTES:
                pending.append((entered, start, at, depth + 1))
            elif entered:
                raise _garbage(name)
    if not {_IR_VERSION, _GRAPH} <= top_level:
        raise _garbage(name)


def _field(data: mmap.mmap, at: int, end: int, wire: int, name: str) -> tuple[int, int, int]:
    """Value of a varint, start of the content, and end of the field."""
    value, start = 0, at
    if wire == _VARINT:
        value, after = _varint(data, at, end, name)
    elif wire == _BYTES:
        size, start = _varint(data, at, end, name)
        after = start + size
    elif wire == _FIXED64:
        after = at + 8
    elif wire == _FIXED32:
        after = at + 4
    else:
        raise _garbage(name)
    if after > end:
        raise _garbage(name)
    return value, start, after


def _varint(data: mmap.mmap, at: int, end: int, name: str) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _garbage(name)


def _garbage(name: str) -> InvalidInput:
    return InvalidInput(f"{name} is not an ONNX model", field="variants.files")
