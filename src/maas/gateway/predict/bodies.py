"""Bodies of `/predict` that are not JSON: forms with files, or one image, audio file or text."""

from __future__ import annotations

from typing import Any

from maas.domain.errors import InvalidInput, UnsupportedMediaType
from maas.domain.names import shown
from maas.domain.signature import Signature, TensorSpec
from maas.gateway.http.forms import FORM, FormPart, form_of
from maas.gateway.http.request import Request, media_type
from maas.gateway.http.routes import JSON_ONLY
from maas.serving.routing.live_target import LiveTarget
from maas.serving.wire.json_codec import Decoded
from maas.serving.wire.json_tensors import json_to_tensors, parse_json

PREDICT_TYPES = (
    *JSON_ONLY, FORM, b"image/*", b"audio/*", b"text/plain", b"application/octet-stream",
)  # fmt: skip
ANY_FILE = "file"
"""The field name that many clients use for the only file of a form."""


def decode_body(request: Request, target: LiveTarget) -> Decoded:
    """The inputs in the body of `request`.

    Raises MalformedBody, InvalidInput, or UnsupportedMediaType if the deployment takes no body of
    this content type.
    """
    content_type = media_type(request.headers)
    signature = target.signature
    if content_type in JSON_ONLY:
        return target.codec.decode(request.body)
    if content_type == FORM:
        values = _form_values(signature, form_of(request))
    else:
        spec = _only_bytes(signature)
        if spec is None:
            raise UnsupportedMediaType(
                f"{target.deployment} does not take one {content_type.decode('latin-1')} body: it "
                f"has the inputs {_input_names(signature)}; send JSON, or a form"
            )
        values = {spec.name: bytes(request.body)}
    tensors, rows, single = json_to_tensors(signature, values)
    ordered = [tensors[spec.name] for spec in signature.inputs]
    return Decoded([t.data for t in ordered], tuple(t.shape[1:] for t in ordered), rows, single)


def _input_names(signature: Signature) -> str:
    return ", ".join(spec.name for spec in signature.inputs)


def _only_bytes(signature: Signature) -> TensorSpec | None:
    """The only input without a default, if it is BYTES without dimensions."""
    required = [spec for spec in signature.inputs if spec.default is None]
    if len(required) == 1 and required[0].datatype == "BYTES" and not required[0].shape:
        return required[0]
    return None


def _form_values(signature: Signature, parts: list[FormPart]) -> dict[str, Any]:
    """The inputs in a form: one row if each field comes once, else lists of rows.

    A field that comes once has the same value in all rows.
    """
    fields: dict[str, list[Any]] = {}
    for part in parts:
        name = part.name
        spec = signature.input(name)
        if spec is None and part.is_file and name == ANY_FILE:
            spec = _only_bytes(signature)
        if spec is None:
            raise InvalidInput(
                f"unknown field {shown(name)}; the inputs are {_input_names(signature)}",
                field=name[:200],
            )
        value: Any = part.data
        if spec.datatype != "BYTES":
            value = parse_json(part.data)
        fields.setdefault(spec.name, []).append(value)
    rows = max(map(len, fields.values()), default=1)
    if rows == 1:
        return {name: values[0] for name, values in fields.items()}
    for name, values in fields.items():
        if len(values) == 1:
            fields[name] = values * rows
    return fields
