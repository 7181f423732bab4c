"""JSON values to tensors and back, with errors that say what was expected and what came.

`JsonCodec` is made once per signature. What callers nearly always send is decoded by a decoder
that knows the types beforehand; whatever that refuses goes through `json_to_tensors`, which is
slower and finds the words.
"""

from __future__ import annotations

import math
import operator
import struct
from array import array
from collections.abc import Callable, Sequence
from itertools import chain
from types import GenericAlias
from typing import Any, NamedTuple

import msgspec

from maas.domain.errors import InvalidInput, MalformedBody
from maas.domain.names import shown
from maas.domain.signature import Signature, TensorSpec
from maas.serving.wire.elements import bytes_elements, element_bytes, pack_elements
from maas.serving.wire.messages import Buffer, Column
from maas.serving.wire.tensors import Tensor, Tensors

JSON_TYPES: dict[str, Any] = {"BOOL": bool, "BYTES": str, "FP16": float, "FP32": float,
                              "FP64": float}  # fmt: skip
"""What an element is in JSON; `int` for the datatypes that are not named."""
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


class Decoded(NamedTuple):
    """What a caller sent, ready to travel."""

    columns: list[Buffer]
    """In the order of the signature's inputs."""
    shapes: tuple[tuple[int, ...], ...]
    """Per row, in the same order."""
    rows: int
    single: bool = False
    """The caller sent one bare row, and gets one."""


class JsonCodec:
    """Bodies of `/predict` for one signature: bytes in, columns out, and answers back."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self._fast = None
        if all(spec.is_fixed for spec in signature.inputs):
            self._fast = _FastDecoder(signature)
        self._encoders = [_output_encoder(spec) for spec in signature.outputs]
        self._names = [spec.name for spec in signature.outputs]
        self._open = b"{%b:" % msgspec.json.encode(self._names[0])
        self._shapes = tuple(spec.shape for spec in signature.inputs)

    def decode(self, body: Buffer) -> Decoded:
        """Raises MalformedBody or InvalidInput."""
        if self._fast is not None:
            columns = self._fast.decode(body)
            if columns is not None:
                return Decoded(columns, self._shapes, 1, True)
            batch = self._fast.decode_batch(body)
            if batch is not None:
                return Decoded(batch[0], self._shapes, batch[1])
        tensors, rows, single = json_to_tensors(self.signature, parse_json(body))
        ordered = [tensors[spec.name] for spec in self.signature.inputs]
        shapes = tuple(t.shape[1:] for t in ordered)
        return Decoded([t.data for t in ordered], shapes, rows, single)

    def encode(self, columns: Sequence[Column], first_row: int, rows: int, single: bool) -> bytes:
        """The JSON object of outputs for `rows` rows from `first_row` on; `columns` are in
        signature order."""
        encoders = self._encoders
        if len(encoders) == 1:
            # One output is the usual case.
            value = encoders[0](columns[0], first_row, rows, single)
            return b"%b%b}" % (self._open, msgspec.json.encode(value))
        values = {
            name: encode(column, first_row, rows, single)
            for name, encode, column in zip(self._names, encoders, columns, strict=True)
        }
        return msgspec.json.encode(values)


_NOT_FAST = (msgspec.MsgspecError, struct.error, OverflowError, ValueError, RecursionError)


class _FastDecoder:
    """One row per input, or a batch of them, of the right type and size; everything else is
    somebody else's."""

    def __init__(self, signature: Signature) -> None:
        self._names = [f"f{number}" for number in range(len(signature.inputs))]
        rename = dict(zip(self._names, (spec.name for spec in signature.inputs), strict=True))
        kinds = []
        for spec in signature.inputs:
            kind: Any = JSON_TYPES.get(spec.datatype, int)
            for _ in spec.shape:
                kind = GenericAlias(list, (kind,))
            kinds.append(kind)

        def decoder(name: str, kinds: list[Any]) -> Callable[[Buffer], Any]:
            fields = list(zip(self._names, kinds, strict=True))
            body = msgspec.defstruct(
                name, fields, rename=rename, forbid_unknown_fields=True, gc=False
            )
            return msgspec.json.Decoder(body).decode

        self._decode = decoder("Row", kinds)
        self._decode_batch = decoder("Rows", [GenericAlias(list, (kind,)) for kind in kinds])
        self._packers = [_row_packer(spec) for spec in signature.inputs]
        self._pack_only = self._packers[0] if len(self._packers) == 1 else None

    def decode(self, body: Buffer) -> list[Buffer] | None:
        try:
            row = self._decode(body)
            if self._pack_only is not None:
                return [self._pack_only(row.f0)]
            return [
                pack(getattr(row, name))
                for name, pack in zip(self._names, self._packers, strict=True)
            ]
        except _NOT_FAST:
            return None

    def decode_batch(self, body: Buffer) -> tuple[list[Buffer], int] | None:
        """The columns and the number of rows. Large batches come this way: the explicit
        way takes several times as long."""
        try:
            batch = self._decode_batch(body)
            lists = [getattr(batch, name) for name in self._names]
            rows = len(lists[0])
            if rows == 0 or any(len(values) != rows for values in lists):
                return None
            columns: list[Buffer] = [
                b"".join(map(pack, values))
                for values, pack in zip(lists, self._packers, strict=True)
            ]
        except _NOT_FAST:
            return None
        return columns, rows


def _row_packer(spec: TensorSpec) -> Callable[[Any], bytes]:
    """Row → bytes; raises struct.error or ValueError if the row has another shape."""
    pack = struct.Struct(f"<{math.prod(spec.shape)}{spec.dtype.typecode}").pack
    shape = spec.shape
    if not shape:
        return pack
    if len(shape) == 1:
        return lambda row: pack(*row)

    def pack_nested(row: list[Any]) -> bytes:
        if not _has_shape(row, shape):
            raise ValueError("another shape")
        for _ in shape[1:]:
            row = list(chain.from_iterable(row))
        return pack(*row)

    return pack_nested


def _has_shape(value: Any, shape: tuple[int, ...]) -> bool:
    if len(value) != shape[0]:
        return False
    return len(shape) == 1 or all(_has_shape(part, shape[1:]) for part in value)


def _output_encoder(spec: TensorSpec) -> Callable[[Column, int, int, bool], Any]:
    """(column, first row, rows, single) → a JSON value.

    A vector of length one says no more than its number, and is shown as it; the binary protocols
    keep it a vector.
    """
    if spec.is_fixed and spec.shape in ((), (1,)):
        code, size = spec.dtype.typecode, spec.dtype.size
        unpack = struct.Struct(f"<{code}").unpack_from

        def scalar(column: Column, first_row: int, rows: int, single: bool) -> Any:
            if single:
                return unpack(column.data, first_row * size)[0]
            return list(struct.unpack_from(f"<{rows}{code}", column.data, first_row * size))

        return scalar

    def general(column: Column, first_row: int, rows: int, single: bool) -> Any:
        shape = () if column.shape == (1,) else column.shape
        data = column.data
        if spec.dtype.size:
            size = spec.dtype.size * math.prod(column.shape)
            data = data[first_row * size : (first_row + rows) * size]
        nested = to_lists(spec.datatype, (rows, *shape), data)
        return nested[0] if single else nested

    return general


# -- the slow and explicit way --------------------------------------------------------------


def parse_json(body: Buffer) -> Any:
    """The JSON value; raises MalformedBody with a sentence for whatever is not one."""
    try:
        return msgspec.json.decode(body)
    except RecursionError:
        raise MalformedBody("the body is nested too deeply") from None
    except (msgspec.MsgspecError, ValueError, OverflowError) as wrong:
        raise MalformedBody(f"the body is not JSON: {wrong}") from None


def json_to_tensors(signature: Signature, value: Any) -> tuple[Tensors, int, bool]:
    """Every input of `signature` from a JSON object; rows; whether it was one bare row.

    Each value is one row, in the shape of the signature, or a list of rows; all inputs must agree
    which. Raises InvalidInput naming the field, what was expected and what came.
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
    left_out: list[TensorSpec] = []
    for spec in signature.inputs:
        if spec.name not in value and spec.default is not None:
            left_out.append(spec)
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
                f"{_rows(*first[1:])}; all inputs must have as many",
                field=spec.name,
            )
        row_shape = tuple(shape) if single else tuple(shape[1:])
        tensors[spec.name] = Tensor(spec.datatype, (rows, *row_shape), pack(spec, flat))
    if first is None:
        raise InvalidInput(f"the body names none of the inputs {_names(signature)}")
    for spec in left_out:
        tensors[spec.name] = default_tensor(spec, first[1])
    return tensors, first[1], first[2]


def default_tensor(spec: TensorSpec, rows: int) -> Tensor:
    """What an input is whose caller left it out, for so many rows."""
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
    """The shape of nested lists and their elements; the shape fits `spec`."""
    shape: list[int] = []
    level = value
    while isinstance(level, list):
        shape.append(len(level))
        if len(shape) > len(spec.shape) + 1 or not level:
            break
        level = level[0]
    rows = shape[1:] if len(shape) == len(spec.shape) + 1 else shape
    fits = len(rows) == len(spec.shape) and all(
        want in (-1, got) for want, got in zip(spec.shape, rows, strict=True)
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
    """Elements → bytes; raises InvalidInput for one that is not of the datatype."""
    if spec.datatype == "BYTES":
        return pack_elements([element_bytes(spec, value, at) for at, value in enumerate(flat)])
    kind = JSON_TYPES.get(spec.datatype, int)
    good = {kind, int} if kind is float else {kind}
    # Sets and extremes first, which are quick for a million elements; then the words.
    if not good.issuperset(map(type, flat)):
        at, element = next((at, e) for at, e in enumerate(flat) if type(e) not in good)
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
    """The first element that is not from `low` to `high`, None if all are. NaN, which is not JSON
    but could come through another door, is outside."""
    has_nan = any(map(operator.ne, flat, flat))
    if not flat or (not has_nan and low <= min(flat) and max(flat) <= high):
        return None
    return next((e for e in flat if not low <= e <= high), None)


def flat_elements(datatype: str, data: Buffer) -> list[Any]:
    """The elements of a tensor's bytes; BYTES become `str`."""
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
    """Nested lists of `shape` from a tensor's bytes."""
    flat = flat_elements(datatype, data)
    for depth in range(len(shape) - 1, 0, -1):
        size = shape[depth]
        count = math.prod(shape[:depth])
        flat = [flat[at * size : (at + 1) * size] for at in range(count)]
    return flat


def tensors_to_json(signature: Signature, outputs: Tensors, single: bool) -> dict[str, Any]:
    """The JSON object of outputs, as `/predict` gives it."""
    out = {}
    for spec in signature.outputs:
        tensor = outputs[spec.name]
        column = Column(tensor.shape[1:], tensor.data)
        out[spec.name] = _output_encoder(spec)(column, 0, tensor.shape[0], single)
    return out
