"""The fast path for Open Inference Protocol requests in JSON with one input and one output.

Most clients send one tensor of fixed shape with flat data. It is decoded by a decoder compiled for
its types, and the response is a template with numbers filled in. All other requests and all errors
take the general way in `infer.py`, which is slower and explains errors.
"""

from __future__ import annotations

import math
import struct
from types import GenericAlias
from typing import Any

import msgspec

from maas.domain.signature import Signature
from maas.gateway.calls import Encoded
from maas.gateway.http.request import JSON
from maas.serving.wire.json_codec import Decoded
from maas.serving.wire.json_tensors import JSON_TYPES
from maas.serving.wire.messages import Answers, Buffer, rows_of

_NOT_FAST = (msgspec.MsgspecError, struct.error, OverflowError, ValueError, RecursionError)


class OipJsonFastPath:
    """Decodes requests and encodes responses of one target.

    Both methods return None if the general way must be used.
    """

    def __init__(self, signature: Signature, deployment: str, version: int) -> None:
        self._decode = None
        if len(signature.inputs) == 1:
            spec = signature.inputs[0]
            if spec.is_fixed and spec.datatype != "BYTES":
                self._name, self._datatype = spec.name, spec.datatype
                self._row = list(spec.shape)
                self._one_row = [1, *spec.shape]
                self._row_shapes = (spec.shape,)
                self._row_size = math.prod(spec.shape)
                self._code = spec.dtype.typecode
                self._pack_row = struct.Struct(f"<{self._row_size}{self._code}").pack
                self._decode = _decoder(JSON_TYPES.get(spec.datatype, int))
        self._head = None
        if len(signature.outputs) == 1:
            out = signature.outputs[0]
            if out.is_fixed and out.datatype not in ("BYTES", "BOOL"):
                self._out_code = out.dtype.typecode
                self._out_shape = out.shape
                self._out_size = math.prod(out.shape)
                row = struct.Struct(f"<{self._out_size}{self._out_code}")
                self._unpack_row, self._row_bytes = row.unpack_from, row.size
                body = {"model_name": deployment, "model_version": str(version)}
                tensor = {"name": out.name, "datatype": out.datatype}
                self._head = b'%b,"outputs":[%b,"shape":[' % (
                    msgspec.json.encode(body)[:-1],
                    msgspec.json.encode(tensor)[:-1],
                )
                self._shape_rest = b"".join(b",%d" % size for size in out.shape)

    def decode(self, body: Buffer) -> tuple[Decoded, str] | None:
        """The tensor and the request's id."""
        if self._decode is None:
            return None
        try:
            message = self._decode(body)
            tensor = message.inputs[0]
            shape = tensor.shape
            if tensor.name != self._name or tensor.datatype != self._datatype:
                return None
            if shape == self._one_row:
                rows = 1
                data = self._pack_row(*tensor.data)
            else:
                rows = shape[0] if shape else 0
                if rows < 1 or shape[1:] != self._row:
                    return None
                data = struct.pack(f"<{rows * self._row_size}{self._code}", *tensor.data)
        except _NOT_FAST:
            return None
        return Decoded([data], self._row_shapes, rows), message.id

    def encode(self, answers: Answers, first_row: int, rows: int, identity: str) -> Encoded | None:
        """The response with `rows` rows from row `first_row`, for the request id `identity`."""
        column = answers.columns[0]
        if self._head is None or column.shape != self._out_shape:
            return None
        if rows == 1:
            elements = self._unpack_row(column.data, first_row * self._row_bytes)
        else:
            data = rows_of(column, first_row, rows, answers.total_rows)
            elements = struct.unpack(f"<{rows * self._out_size}{self._out_code}", data)
        end = b',"id":%b}' % msgspec.json.encode(identity) if identity else b"}"
        return (
            b'%b%d%b],"data":%b}]%b'
            % (self._head, rows, self._shape_rest, msgspec.json.encode(elements), end),
            JSON,
            (),
        )


def _decoder(element: type) -> Any:
    """A decoder of requests with one input, whose elements are of type `element`."""
    tensor = msgspec.defstruct(
        "FastTensor",
        [
            ("name", str),
            ("shape", GenericAlias(list, (int,))),
            ("datatype", str),
            ("data", GenericAlias(list, (element,))),
        ],
        forbid_unknown_fields=True,
        gc=False,
    )
    body = msgspec.defstruct(
        "FastRequest",
        [("inputs", GenericAlias(tuple, (tensor,))), ("id", str, "")],
        forbid_unknown_fields=True,
        gc=False,
    )
    return msgspec.json.Decoder(body).decode
