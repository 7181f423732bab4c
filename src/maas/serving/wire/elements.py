"""Elements of BYTES tensors, which hold text or bytes: from JSON values, to and from tensors."""

from __future__ import annotations

import binascii
import struct
from collections.abc import Sequence
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.names import shown
from maas.domain.signature import TensorSpec
from maas.serving.wire.messages import Buffer


def element_bytes(spec: TensorSpec, value: Any, at: int) -> bytes:
    """The bytes of the JSON value of element `at`.

    A string becomes UTF-8. `{"b64": "…"}` is base64 of any bytes, as in TensorFlow Serving. `bytes`
    come from forms and are unchanged. Raises InvalidInput for other values.
    """
    if isinstance(value, str):
        return _utf8(spec, value)
    if isinstance(value, bytes):
        return value
    text = value.get("b64") if isinstance(value, dict) and len(value) == 1 else None
    if not isinstance(text, str):
        raise InvalidInput(
            f'field {spec.name!r}: expected strings, or {{"b64": "…"}} for bytes, got '
            f"{shown(value)} at {at}",
            field=spec.name,
        )
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise InvalidInput(
            f"field {spec.name!r}: the b64 at {at} is not base64: {error}", field=spec.name
        ) from None


def pack_elements(elements: Sequence[Buffer]) -> bytes:
    """The bytes of a BYTES tensor; the inverse of `bytes_elements`."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def _utf8(spec: TensorSpec, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(
            f"field {spec.name!r}: {shown(text)} has half of a surrogate pair", field=spec.name
        ) from None


def bytes_elements(data: Buffer) -> list[bytes]:
    """The elements of a BYTES tensor.

    Each is stored as a little-endian u32 length and that many bytes. Raises InvalidInput if the
    data ends within an element.
    """
    view, at, out = memoryview(data), 0, []
    while at < len(view):
        size = int.from_bytes(view[at : at + 4], "little")
        if at + 4 + size > len(view):
            raise InvalidInput("a BYTES tensor ends within an element")
        out.append(bytes(view[at + 4 : at + 4 + size]))
        at += 4 + size
    return out
