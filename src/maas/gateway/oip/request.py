"""Requests of the Open Inference Protocol: JSON and binary tensors to columns, wanted outputs.

Any request; what most callers send is read by `oip_json`.
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
from maas.serving.wire.codec import Decoded, default_tensor, pack, parse_json
from maas.serving.wire.elements import bytes_elements
from maas.serving.wire.messages import Buffer

_SHARED_MEMORY = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")
Wanted = tuple[int, TensorSpec, bool]
"""Place in the signature, spec, and whether it goes out in binary."""
HEADER_LENGTH = b"inference-header-content-length"

_decode_request = msgspec.json.Decoder(InferRequest).decode
_decode_floats = msgspec.json.Decoder(list[float]).decode


def json_bytes(request: Request) -> int:
    """As the header says; 0 if it says nonsense, which is refused later."""
    text = request.headers[HEADER_LENGTH]
    return int(text) if text.isdigit() and len(text) <= 12 else 0


def split(request: Request, max_json: int) -> tuple[InferRequest, memoryview]:
    """The JSON part of a body and the binary tensors behind it."""
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
            f"the JSON of a request may have {max_json} bytes, not {len(body)}; larger tensors go "
            "in binary"
        )
    try:
        return _decode_request(body), tail
    except msgspec.ValidationError as wrong:
        raise InvalidInput(f"not an inference request: {wrong}") from None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        parse_json(bytes(body))  # finds the words
        raise BadRequest("the body is not an inference request") from None


def decoded_inputs(signature: Signature, asked: InferRequest, tail: memoryview) -> Decoded:
    given: dict[str, tuple[Tensor, Buffer]] = {}
    at = 0
    for tensor in asked.inputs:
        spec = signature.input(tensor.name)
        if spec is None or tensor.name in given:
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
            given[tensor.name] = tensor, _json_data(spec, tensor)
            continue
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(tail) - at:
            raise InvalidInput(
                f"input {tensor.name!r}: binary_data_size must be a whole number of bytes that "
                f"are there ({len(tail) - at}); got {shown(size)}",
                field=tensor.name,
            )
        given[tensor.name] = tensor, _binary_data(spec, tensor, tail[at : at + size])
        at += size
    if at != len(tail):
        raise InvalidInput(f"{len(tail) - at} bytes follow the last binary tensor")
    missing = [s.name for s in signature.inputs if s.name not in given and s.default is None]
    if missing or not given:
        name = (missing or [signature.inputs[0].name])[0]
        raise InvalidInput(f"input {name!r} is missing", field=name)
    first = next(tensor for tensor, _ in given.values())
    rows = first.shape[0]
    for tensor, _ in given.values():
        if tensor.shape[0] != rows:
            raise InvalidInput(
                f"input {tensor.name!r} has {tensor.shape[0]} rows and {first.name!r} "
                f"has {rows}; all inputs must have as many",
                field=tensor.name,
            )
    columns: list[Buffer] = []
    shapes: list[tuple[int, ...]] = []
    for spec in signature.inputs:
        found = given.get(spec.name)
        columns.append(found[1] if found else default_tensor(spec, rows).data)
        shapes.append(tuple(found[0].shape[1:]) if found else ())
    return Decoded(columns, tuple(shapes), rows)


def _check_tensor(spec: TensorSpec, tensor: Tensor) -> None:
    if tensor.datatype != spec.datatype:
        raise InvalidInput(
            f"input {spec.name!r}: expected datatype {spec.datatype}, got {shown(tensor.datatype)}",
            field=spec.name,
        )
    fits = len(tensor.shape) == len(spec.shape) + 1 and all(
        got >= 1 and want in (-1, got)
        for want, got in zip((-1, *spec.shape), tensor.shape, strict=True)
    )
    if not fits:
        raise InvalidInput(
            f"input {spec.name!r}: expected shape [n{''.join(f', {d}' for d in spec.shape)}], "
            f"got {shown(tensor.shape, 200)}",
            field=spec.name,
        )


def _json_data(spec: TensorSpec, tensor: Tensor) -> bytes:
    """Row-major `data`, nested or flat, as bytes."""
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
        found = len(bytes_elements(data))
        if found != count:
            raise InvalidInput(
                f"input {spec.name!r}: shape {tensor.shape} needs {count} elements, got {found}",
                field=spec.name,
            )
    elif len(data) != count * spec.dtype.size:
        raise InvalidInput(
            f"input {spec.name!r}: shape {tensor.shape} of {spec.datatype} needs "
            f"{count * spec.dtype.size} bytes, got {len(data)}",
            field=spec.name,
        )
    return data


def wanted_outputs(signature: Signature, asked: InferRequest) -> list[Wanted]:
    all_binary = (asked.parameters or {}).get("binary_data_output") is True
    known = {spec.name: (at, spec) for at, spec in enumerate(signature.outputs)}
    if not asked.outputs:
        return [(at, spec, all_binary) for at, spec in known.values()]
    names = ", ".join(known)
    wanted = []
    for output in asked.outputs:
        if output.name not in known:
            raise InvalidInput(
                f"unexpected output {shown(output.name)}; the outputs are {names}, each once",
                field=output.name[:200],
            )
        at, spec = known.pop(output.name)
        parameters = output.parameters or {}
        _refuse(parameters, ("classification", *_SHARED_MEMORY), f"output {output.name!r}")
        wanted.append((at, spec, parameters.get("binary_data", all_binary) is True))
    return wanted


def _refuse(parameters: Parameters, names: tuple[str, ...], where: str) -> None:
    """An extension that we do not have must not be ignored in silence."""
    for name in names:
        if name in parameters:
            raise InvalidInput(f"{where}: the parameter {name!r} is not supported", field=name)
