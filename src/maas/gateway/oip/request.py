"""Decodes any request of the Open Inference Protocol: JSON and binary tensors to columns.

`json_fast_path.py` decodes the most frequent kind of request faster.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from maas.domain.errors import BadRequest, BodyTooLarge, InvalidInput
from maas.domain.names import shown
from maas.domain.signature import Signature, TensorSpec
from maas.gateway.http.request import Request
from maas.protocols.oip import InferRequest, Parameters, Tensor
from maas.serving.wire.elements import bytes_elements
from maas.serving.wire.json_codec import Decoded
from maas.serving.wire.json_tensors import default_tensor, pack, parse_json
from maas.serving.wire.messages import Buffer

_SHARED_MEMORY = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")
RequestedOutput = tuple[int, TensorSpec, bool]
"""An output's place in the signature, its spec, and whether it is sent in binary."""
HEADER_LENGTH = b"inference-header-content-length"

_decode_request = msgspec.json.Decoder(InferRequest).decode
_decode_floats = msgspec.json.Decoder(list[float]).decode


def json_bytes(request: Request) -> int:
    """The length of the JSON part in the header; 0 if it is malformed, which is refused later."""
    text = request.headers[HEADER_LENGTH]
    return int(text) if text.isdigit() and len(text) <= 12 else 0


def split(request: Request, max_json: int) -> tuple[InferRequest, memoryview]:
    """The JSON part of a body and the binary tensors after it.

    Raises BadRequest, BodyTooLarge, InvalidInput or MalformedBody.
    """
    body = memoryview(request.body)
    text = request.headers.get(HEADER_LENGTH)
    if text is not None:
        if not text.isdigit() or len(text) > 12 or int(text) > len(body):
            raise BadRequest(
                "Inference-Header-Content-Length must be the number of bytes of the JSON part, "
                f"at most {len(body)}; got {shown(text.decode('latin-1'))}"
            )
        body, tail = body[: int(text)], body[int(text) :]
    else:
        tail = body[:0]
    if len(body) > max_json:
        raise BodyTooLarge(
            f"the JSON of a request may have {max_json} bytes, not {len(body)}; send large tensors "
            "in binary"
        )
    try:
        return _decode_request(body), tail
    except msgspec.ValidationError as error:
        raise InvalidInput(f"not an inference request: {error}") from None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        parse_json(bytes(body))  # raises MalformedBody with the reason
        raise BadRequest("the body is not an inference request") from None


def decode_inputs(signature: Signature, message: InferRequest, tail: memoryview) -> Decoded:
    """The inputs of `message`, whose binary tensors are in `tail`. Raises InvalidInput."""
    inputs: dict[str, tuple[Tensor, Buffer]] = {}
    at = 0
    for tensor in message.inputs:
        spec = signature.input(tensor.name)
        if spec is None or tensor.name in inputs:
            names = ", ".join(s.name for s in signature.inputs)
            raise InvalidInput(
                f"unexpected input {shown(tensor.name)}; the inputs are {names}, each once",
                field=tensor.name[:200],
            )
        _check_tensor(spec, tensor)
        parameters = tensor.parameters or {}
        _refuse(parameters, _SHARED_MEMORY, f"input {tensor.name!r}")
        size = parameters.get("binary_data_size")
        if size is None:
            inputs[tensor.name] = tensor, _json_data(spec, tensor)
            continue
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(tail) - at:
            raise InvalidInput(
                f"input {tensor.name!r}: binary_data_size must be a whole number of bytes, at most "
                f"the {len(tail) - at} that follow; got {shown(size)}",
                field=tensor.name,
            )
        inputs[tensor.name] = tensor, _binary_data(spec, tensor, tail[at : at + size])
        at += size
    if at != len(tail):
        raise InvalidInput(f"{len(tail) - at} bytes follow the last binary tensor")
    return _in_signature_order(signature, inputs)


def _in_signature_order(signature: Signature, inputs: dict[str, tuple[Tensor, Buffer]]) -> Decoded:
    """The inputs in the order of the signature, with defaults for missing ones.

    Raises InvalidInput if a required input is missing or the numbers of rows differ.
    """
    missing = [s.name for s in signature.inputs if s.name not in inputs and s.default is None]
    if missing or not inputs:
        name = (missing or [signature.inputs[0].name])[0]
        raise InvalidInput(f"input {name!r} is missing", field=name)
    first = next(tensor for tensor, _ in inputs.values())
    rows = first.shape[0]
    for tensor, _ in inputs.values():
        if tensor.shape[0] != rows:
            raise InvalidInput(
                f"input {tensor.name!r} has {tensor.shape[0]} rows and {first.name!r} "
                f"has {rows}; all inputs must have the same number of rows",
                field=tensor.name,
            )
    columns: list[Buffer] = []
    shapes: list[tuple[int, ...]] = []
    for spec in signature.inputs:
        if spec.name in inputs:
            tensor, data = inputs[spec.name]
            columns.append(data)
            shapes.append(tuple(tensor.shape[1:]))
        else:
            columns.append(default_tensor(spec, rows).data)
            shapes.append(())
    return Decoded(columns, tuple(shapes), rows)


def _check_tensor(spec: TensorSpec, tensor: Tensor) -> None:
    if tensor.datatype != spec.datatype:
        raise InvalidInput(
            f"input {spec.name!r}: expected datatype {spec.datatype}, got {shown(tensor.datatype)}",
            field=spec.name,
        )
    fits = len(tensor.shape) == len(spec.shape) + 1 and all(
        size >= 1 and expected in (-1, size)
        for expected, size in zip((-1, *spec.shape), tensor.shape, strict=True)
    )
    if not fits:
        raise InvalidInput(
            f"input {spec.name!r}: expected shape [n{''.join(f', {d}' for d in spec.shape)}], "
            f"got {shown(tensor.shape, 200)}",
            field=spec.name,
        )


def _json_data(spec: TensorSpec, tensor: Tensor) -> bytes:
    """The row-major bytes of the field `data`, nested or flat."""
    if tensor.data is msgspec.UNSET:
        raise InvalidInput(f"input {spec.name!r} has no data", field=spec.name)
    elements: list[Any]
    try:
        elements = _decode_floats(tensor.data) if spec.datatype.startswith("FP") else []
    except (msgspec.MsgspecError, RecursionError):
        elements = []
    if not elements:
        elements = _flat(parse_json(bytes(tensor.data)), spec, tensor.shape)
    count = math.prod(tensor.shape)
    if len(elements) != count:
        raise InvalidInput(
            f"input {spec.name!r}: shape {tensor.shape} needs {count} elements, got "
            f"{len(elements)}",
            field=spec.name,
        )
    return pack(spec, elements)


def _flat(value: Any, spec: TensorSpec, shape: list[int]) -> list[Any]:
    """The elements of `value`, which is a flat list or nested as `shape`."""
    if not isinstance(value, list):
        raise InvalidInput(f"input {spec.name!r}: data must be a list", field=spec.name)
    flat: list[Any] = value
    for size in shape[1:]:
        if not any(isinstance(part, list) for part in flat):
            break
        if not all(isinstance(part, list) and len(part) == size for part in flat):
            raise InvalidInput(
                f"input {spec.name!r}: data must be flat or nested as its shape {shape}",
                field=spec.name,
            )
        flat = [element for part in flat for element in part]
    return flat


def _binary_data(spec: TensorSpec, tensor: Tensor, data: memoryview) -> Buffer:
    count = math.prod(tensor.shape)
    if spec.datatype == "BYTES":
        elements = len(bytes_elements(data))
        if elements != count:
            raise InvalidInput(
                f"input {spec.name!r}: shape {tensor.shape} needs {count} elements, got {elements}",
                field=spec.name,
            )
    elif len(data) != count * spec.dtype.size:
        raise InvalidInput(
            f"input {spec.name!r}: shape {tensor.shape} of {spec.datatype} needs "
            f"{count * spec.dtype.size} bytes, got {len(data)}",
            field=spec.name,
        )
    return data


def requested_outputs(signature: Signature, message: InferRequest) -> list[RequestedOutput]:
    """The outputs that `message` requests, or all. Raises InvalidInput."""
    all_binary = (message.parameters or {}).get("binary_data_output") is True
    outputs = {spec.name: (at, spec) for at, spec in enumerate(signature.outputs)}
    if not message.outputs:
        return [(at, spec, all_binary) for at, spec in outputs.values()]
    names = ", ".join(outputs)
    requested = []
    for output in message.outputs:
        if output.name not in outputs:
            raise InvalidInput(
                f"unexpected output {shown(output.name)}; the outputs are {names}, each once",
                field=output.name[:200],
            )
        at, spec = outputs.pop(output.name)
        parameters = output.parameters or {}
        _refuse(parameters, ("classification", *_SHARED_MEMORY), f"output {output.name!r}")
        requested.append((at, spec, parameters.get("binary_data", all_binary) is True))
    return requested


def _refuse(parameters: Parameters, names: tuple[str, ...], where: str) -> None:
    """Raise InvalidInput for parameters of unsupported extensions, which must not be ignored."""
    for name in names:
        if name in parameters:
            raise InvalidInput(f"{where}: the parameter {name!r} is not supported", field=name)
