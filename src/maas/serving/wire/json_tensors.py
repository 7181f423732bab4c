"""JSON values to tensors and back, with errors that name the field, the expected and actual value.

This is the general way, for any signature and any body. `codec.py` has the fast one.
"""

from __future__ import annotations

import math
import operator
import struct
from array import array
from typing import Any

import msgspec

from maas.domain.errors import InvalidInput, MalformedBody
from maas.domain.names import shown
from maas.domain.signature import Signature, TensorSpec
from maas.serving.wire.elements import bytes_elements, element_bytes, pack_elements
from maas.serving.wire.messages import Buffer
from maas.serving.wire.tensors import Tensor, Tensors

JSON_TYPES: dict[str, Any] = {"BOOL": bool, "BYTES": str, "FP16": float, "FP32": float,
                              "FP64": float}  # fmt: skip
"""The Python type of an element's JSON value by datatype; `int` for all others."""
_INTEGER_RANGES = {
    name: (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    for name, bits, signed in (
        ("INT8", 8, True),
        ("INT16", 16, True),
        ("INT32", 32, True),
        ("INT64", 64, True),
        ("UINT8", 8, False),
        ("UINT16", 16, False),
        ("UINT32", 32, False),
        ("UINT64", 64, False),
    )
}
_LARGEST_FLOAT = {"FP16": 65504.0, "FP32": 3.4028234663852886e38, "FP64": 1.7976931348623157e308}


def parse_json(body: Buffer) -> Any:
    """The JSON value of `body`. Raises MalformedBody, with the reason, if it is not valid JSON."""
    try:
        return msgspec.json.decode(body)
    except RecursionError:
        raise MalformedBody("the body is nested too deeply") from None
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        raise MalformedBody(f"the body is not JSON: {error}") from None


def json_to_tensors(signature: Signature, value: Any) -> tuple[Tensors, int, bool]:
    """The inputs of `signature` from a JSON object, the number of rows, and whether it is a bare
    row.

    Each value is one bare row, in the shape of the signature, or a list of rows. All inputs must
    have the same form and number of rows. Raises InvalidInput, which names the field.
    """
    if not isinstance(value, dict):
        raise InvalidInput(
            f"the body must be a JSON object of inputs ({_names(signature)}); got {_kind(value)}"
        )
    for name in value:
        if signature.input(name) is None:
            raise InvalidInput(
                f"unknown field {shown(name)}; the inputs are {_names(signature)}",
                field=name[:200],
            )
    tensors: Tensors = {}
    first: tuple[str, int, bool] | None = None
    defaulted: list[TensorSpec] = []
    for spec in signature.inputs:
        if spec.name not in value and spec.default is not None:
            defaulted.append(spec)
            continue
        if spec.name not in value:
            raise InvalidInput(
                f"field {spec.name!r} is missing; expected shape {spec.expected_shape()}",
                field=spec.name,
            )
        shape, flat = _flatten(spec, value[spec.name])
        single = len(shape) == len(spec.shape)
        rows = 1 if single else shape[0]
        if first is None:
            first = (spec.name, rows, single)
        elif first[1:] != (rows, single):
            raise InvalidInput(
                f"field {spec.name!r} has {_rows(rows, single)} and field {first[0]!r} has "
                f"{_rows(*first[1:])}; all inputs must have the same number of rows",
                field=spec.name,
            )
        row_shape = tuple(shape) if single else tuple(shape[1:])
        tensors[spec.name] = Tensor(spec.datatype, (rows, *row_shape), pack(spec, flat))
    if first is None:
        raise InvalidInput(f"the body has none of the inputs {_names(signature)}")
    for spec in defaulted:
        tensors[spec.name] = default_tensor(spec, first[1])
    return tensors, first[1], first[2]


def default_tensor(spec: TensorSpec, rows: int) -> Tensor:
    """`rows` rows of the default value of an input without dimensions."""
    return Tensor(spec.datatype, (rows,), pack(spec, [spec.default]) * rows)


def _rows(rows: int, single: bool) -> str:
    return "one row" if single else f"a list of {rows} rows"


def _names(signature: Signature) -> str:
    return ", ".join(repr(spec.name) for spec in signature.inputs)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false",
             int: "a number", float: "a number", type(None): "null"}  # fmt: skip
    return names.get(type(value), type(value).__name__)


def _flatten(spec: TensorSpec, value: Any) -> tuple[list[int], list[Any]]:
    """The shape of nested lists and their elements.

    Raises InvalidInput if the shape does not fit `spec`.
    """
    shape: list[int] = []
    level = value
    while isinstance(level, list):
        shape.append(len(level))
        if len(shape) > len(spec.shape) + 1 or not level:
            break
        level = level[0]
    rows = shape[1:] if len(shape) == len(spec.shape) + 1 else shape
    fits = len(rows) == len(spec.shape) and all(
        expected in (-1, size) for expected, size in zip(spec.shape, rows, strict=True)
    )
    if not fits or 0 in shape:
        raise InvalidInput(
            f"field {spec.name!r}: expected shape {spec.expected_shape()}, got {shape}",
            field=spec.name,
            expected=spec.expected_shape(),
            got=shape,
        )
    flat = [value]
    for depth, size in enumerate(shape):
        deeper: list[Any] = []
        for part in flat:
            if not isinstance(part, list) or len(part) != size:
                raise InvalidInput(
                    f"field {spec.name!r}: expected shape {spec.expected_shape()}, got lists of "
                    f"different lengths at depth {depth + 1}",
                    field=spec.name,
                    expected=spec.expected_shape(),
                )
            deeper += part
        flat = deeper
    return shape, flat


def pack(spec: TensorSpec, flat: list[Any]) -> bytes:
    """Convert elements to bytes. Raises InvalidInput for an element that is not of the datatype."""
    if spec.datatype == "BYTES":
        return pack_elements([element_bytes(spec, value, at) for at, value in enumerate(flat)])
    kind = JSON_TYPES.get(spec.datatype, int)
    types = {kind, int} if kind is float else {kind}
    # A check of sets and extremes is fast for a million elements. Then the first bad one is found.
    if not types.issuperset(map(type, flat)):
        at, element = next((at, e) for at, e in enumerate(flat) if type(e) not in types)
        raise InvalidInput(
            f"field {spec.name!r}: expected {spec.datatype} numbers, got "
            f"{shown(element)} at element {at}",
            field=spec.name,
        )
    if kind is int:
        low, high = _INTEGER_RANGES[spec.datatype]
        outside = _outside(flat, low, high)
        expected = f"whole numbers from {low} to {high}"
    elif kind is float:
        largest = _LARGEST_FLOAT[spec.datatype]
        outside = _outside(flat, -largest, largest)
        expected = f"finite {spec.datatype} numbers"
    else:
        outside = None
        expected = ""
    if outside is not None:
        raise InvalidInput(
            f"field {spec.name!r}: expected {expected}, got {shown(outside)}", field=spec.name
        )
    return struct.pack(f"<{len(flat)}{spec.dtype.typecode}", *flat)


def _outside(flat: list[Any], low: float, high: float) -> Any:
    """The first element that is not from `low` to `high`, or None.

    NaN is outside. JSON has none, but other protocols do.
    """
    has_nan = any(map(operator.ne, flat, flat))
    if not flat or (not has_nan and low <= min(flat) and max(flat) <= high):
        return None
    return next((e for e in flat if not low <= e <= high), None)


def flat_elements(datatype: str, data: Buffer) -> list[Any]:
    """The elements of a tensor; BYTES become `str`."""
    if datatype == "BYTES":
        return [text.decode("utf-8", "replace") for text in bytes_elements(data)]
    spec = TensorSpec("t", datatype)
    code = spec.dtype.typecode
    if code in "?e":
        return list(struct.unpack(f"<{len(data) // spec.dtype.size}{code}", data))
    elements = array(code)
    elements.frombytes(data)
    return elements.tolist()


def to_lists(datatype: str, shape: tuple[int, ...], data: Buffer) -> Any:
    """The elements of a tensor as nested lists of `shape`."""
    flat = flat_elements(datatype, data)
    for depth in range(len(shape) - 1, 0, -1):
        size = shape[depth]
        count = math.prod(shape[:depth])
        flat = [flat[at * size : (at + 1) * size] for at in range(count)]
    return flat
