"""Media types of bodies in the OpenAPI document."""

from __future__ import annotations

from typing import Any

Content = dict[str, Any]

_BYTES = {"type": "string", "format": "binary"}
_TEXT = {"type": "string"}
_OCTETS: Content = {"application/octet-stream": {"schema": _BYTES}}
_PLAIN: Content = {"text/plain": {"schema": _TEXT}}
_EVENTS: Content = {"text/event-stream": {"schema": _TEXT}}
_FILES: Content = {
    name: {"schema": _BYTES}
    for name in ("image/*", "audio/*", "text/plain", "application/octet-stream")
}


def _form(schema: str) -> Content:
    return {"multipart/form-data": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


_CONTENT: dict[str, Content] = {
    "octets": _OCTETS,
    "text": _PLAIN,
    "any": {"application/json": {"schema": {"type": "object"}}},
    "SpeechForm": _form("SpeechForm"),
}
"""Bodies that are not JSON of a schema."""
_ALTERNATIVES: dict[str, Content] = {
    "InferRequest": _OCTETS,
    "InferResponse": _OCTETS,
    "Inputs": _form("PredictForm") | _FILES,
    "ChatCompletion": _EVENTS,
    "Completion": _EVENTS,
    "MessagesAnswer": _EVENTS,
    "Transcription": _PLAIN,
}
"""Media types besides JSON, by schema."""


def content_of(name: str) -> Content:
    """By media type, the content of a body; `name` is a schema, or `octets`, `text` or `any`."""
    json = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    return _CONTENT.get(name, json) | _ALTERNATIVES.get(name, {})
