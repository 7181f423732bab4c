"""Bodies of `/predict` besides JSON: forms with files, and one image, sound or text as it is."""

from __future__ import annotations

from typing import Any

from maas.domain.errors import InvalidInput, UnsupportedMediaType
from maas.domain.names import shown
from maas.domain.signature import Signature, TensorSpec
from maas.gateway.http.forms import FORM, FormPart, form_of
from maas.gateway.http.request import Request, media_type
from maas.gateway.http.routes import JSON_ONLY
from maas.serving.routing.live_target import LiveTarget
from maas.serving.wire.codec import Decoded, json_to_tensors, parse_json

PREDICT_TYPES = (
    *JSON_ONLY, FORM, b"image/*", b"audio/*", b"text/plain", b"application/octet-stream",
)  # fmt: skip
ANY_FILE = "file"
"""What many clients call the one file of a form."""


def decoded(request: Request, target: LiveTarget) -> Decoded:
    """The inputs in `request`. Raises MalformedBody, InvalidInput, or UnsupportedMediaType if the
    deployment takes none of that type."""
    kind = media_type(request.headers)
    signature = target.signature
    if kind in JSON_ONLY:
        return target.codec.decode(request.body)
    if kind == FORM:
        values = _form_values(signature, form_of(request))
    else:
        spec = _only_bytes(signature)
        if spec is None:
            needed = ", ".join(s.name for s in signature.inputs)
            raise UnsupportedMediaType(
                f"{target.deployment} does not take one {kind.decode('latin-1')} body: it has the "
                f"inputs {needed}; send JSON, or a form"
            )
        values = {spec.name: bytes(request.body)}
    tensors, rows, single = json_to_tensors(signature, values)
    ordered = [tensors[spec.name] for spec in signature.inputs]
    return Decoded([t.data for t in ordered], tuple(t.shape[1:] for t in ordered), rows, single)


def _only_bytes(signature: Signature) -> TensorSpec | None:
    """The one input that must be given, if it is BYTES without dimensions."""
    needed = [spec for spec in signature.inputs if spec.default is None]
    if len(needed) == 1 and needed[0].datatype == "BYTES" and not needed[0].shape:
        return needed[0]
    return None


def _form_values(signature: Signature, parts: list[FormPart]) -> dict[str, Any]:
    """A name that comes once is one row, one that comes several times a list of rows."""
    found: dict[str, list[Any]] = {}
    for part in parts:
        name = part.name
        spec = signature.input(name)
        if spec is None and part.is_file and name == ANY_FILE:
            spec = _only_bytes(signature)
        if spec is None:
            names = ", ".join(s.name for s in signature.inputs)
            raise InvalidInput(
                f"unknown field {shown(name)}; the inputs are {names}", field=name[:200]
            )
        value = part.data if spec.datatype == "BYTES" else parse_json(part.data)
        found.setdefault(spec.name, []).append(value)
    rows = max(map(len, found.values()), default=1)
    return {
        # What is said once holds for all rows.
        name: values[0] if rows == 1 else values * rows if len(values) == 1 else values
        for name, values in found.items()
    }
