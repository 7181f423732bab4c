"""Bodies of `/predict` to tensors, and outputs back to JSON, for one signature.

There is one `JsonCodec` per signature. Its decoder is compiled for the signature's types. A body
that it refuses goes through `json_tensors.json_to_tensors`, which is slower and explains errors.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from itertools import chain
from types import GenericAlias
from typing import Any, NamedTuple

import msgspec

from maas.domain.signature import Signature, TensorSpec
from maas.serving.wire.json_tensors import JSON_TYPES, json_to_tensors, parse_json, to_lists
from maas.serving.wire.messages import Buffer, Column


class Decoded(NamedTuple):
    """The inputs of a request, ready to be sent to a replica."""

    columns: list[Buffer]
    """The tensors' bytes, in the order of the signature's inputs."""
    shapes: tuple[tuple[int, ...], ...]
    """The shape of one row, in the same order."""
    rows: int
    single: bool = False
    """Whether the client sent one bare row, and gets one back."""


class JsonCodec:
    """Decodes bodies of `/predict` for one signature and encodes the responses."""

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
        """The inputs in a JSON body. Raises MalformedBody or InvalidInput."""
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
        """The JSON object of outputs for `rows` rows from row `first_row`.

        `columns` has the order of the signature's outputs. With `single`, each output is one bare
        row.
        """
        encoders = self._encoders
        if len(encoders) == 1:
            # Nearly all signatures have one output.
            value = encoders[0](columns[0], first_row, rows, single)
            return b"%b%b}" % (self._open, msgspec.json.encode(value))
        values = {
            name: encode(column, first_row, rows, single)
            for name, encode, column in zip(self._names, encoders, columns, strict=True)
        }
        return msgspec.json.encode(values)


_NOT_FAST = (msgspec.MsgspecError, struct.error, OverflowError, ValueError, RecursionError)


class _FastDecoder:
    """Decodes bodies that fit a signature of fixed shapes exactly; None for all others."""

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
        """The columns of one bare row."""
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
        """The columns and number of rows of a batch.

        The general way takes several times as long, which matters for large batches.
        """
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
    """A function from a row to bytes. It raises struct.error or ValueError for another shape."""
    pack = struct.Struct(f"<{math.prod(spec.shape)}{spec.dtype.typecode}").pack
    shape = spec.shape
    if not shape:
        return pack
    if len(shape) == 1:
        return lambda row: pack(*row)

    def pack_nested(row: list[Any]) -> bytes:
        if not _has_shape(row, shape):
            raise ValueError("the row has another shape")
        for _ in shape[1:]:
            row = list(chain.from_iterable(row))
        return pack(*row)

    return pack_nested


def _has_shape(value: Any, shape: tuple[int, ...]) -> bool:
    if len(value) != shape[0]:
        return False
    return len(shape) == 1 or all(_has_shape(part, shape[1:]) for part in value)


def _output_encoder(spec: TensorSpec) -> Callable[[Column, int, int, bool], Any]:
    """A function (column, first row, rows, single) → JSON value.

    A vector of length one is shown as its number; the Open Inference Protocol keeps the vector.
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
