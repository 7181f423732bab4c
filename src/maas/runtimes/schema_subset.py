"""JSON schemas for engines that ignore what they do not know.

xgrammar leaves out keywords that it does not know, and a schema that it cannot compile ends
everything that the engine writes. So only what it is known to hold is let through.
https://json-schema.org/draft/2020-12/json-schema-validation
"""

from __future__ import annotations

import re
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.names import shown

_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
_NOTES = {
    "title", "description", "default", "examples", "$schema", "$id", "$comment", "$defs",
    "definitions", "deprecated",
}  # fmt: skip
"""Keywords that say nothing about what is valid."""
_SUPPORTED = _NOTES | {
    "type", "properties", "required", "additionalProperties", "items", "minItems", "maxItems",
    "minLength", "maxLength", "enum", "const", "anyOf", "$ref", "minimum", "maximum",
}  # fmt: skip
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength")
MAX_COUNT = 4096
"""Largest length that a schema may name; a grammar grows with it."""
MAX_DEPTH = 24
MAX_NODES = 2000
_REF = re.compile(r"#/(\$defs|definitions)/([A-Za-z0-9_.-]+)")


def checked_schema(response_format: dict[str, Any]) -> dict[str, Any]:
    """The schema of a `Generation.response_format`; raises InvalidInput if this engine would not
    hold it."""
    if response_format.get("type") == "json_object":
        return {"type": "object"}
    schema = response_format.get("schema", {})
    _Check(schema).node(schema, 0)
    return dict(schema)


class _Check:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._nodes = 0

    def node(self, schema: Any, depth: int) -> None:
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise _wrong(f"it has more than {MAX_DEPTH} levels or {MAX_NODES} parts")
        if isinstance(schema, bool) and depth:
            return
        if not isinstance(schema, dict):
            raise _wrong(f"a schema is an object, not {shown(schema)}")
        unknown = sorted(str(key) for key in schema if key not in _SUPPORTED)
        if unknown:
            raise _wrong(f"this engine cannot enforce {shown(unknown[0])}; llama_cpp may")
        self._values(schema)
        for keyword in ("$defs", "definitions", "properties"):
            for part in _mapping(schema, keyword).values():
                self.node(part, depth + 1)
        for keyword in ("items", "additionalProperties"):
            if keyword in schema:
                self.node(schema[keyword], depth + 1)
        if "anyOf" in schema:
            for part in _filled(schema, "anyOf"):
                self.node(part, depth + 1)

    def _values(self, schema: dict[str, Any]) -> None:
        types = schema.get("type", [])
        for name in [types] if isinstance(types, str) else _listed(types, "type"):
            if name not in _TYPES:
                raise _wrong(f"there is no type {shown(name)}")
        for keyword in _COUNTS:
            value = schema.get(keyword, 0)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
                raise _wrong(f"{keyword} must be from 0 to {MAX_COUNT}; got {shown(value)}")
        for keyword in ("minimum", "maximum"):
            value = schema.get(keyword, 0)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or schema.get("type", "integer") != "integer" or abs(value) > 1 << 53:
                raise _wrong(f"{keyword} can be enforced for whole numbers only")
        for low, high in (("minItems", "maxItems"), ("minLength", "maxLength"),
                          ("minimum", "maximum")):  # fmt: skip
            if low in schema and high in schema and schema[low] > schema[high]:
                raise _wrong(f"{low} is larger than {high}")
        if "enum" in schema:
            _filled(schema, "enum")
        if any(not isinstance(name, str) for name in _listed(schema.get("required", []), "")):
            raise _wrong("required must be a list of names")
        if "$ref" in schema:
            self._reference(schema["$ref"])

    def _reference(self, reference: object) -> None:
        found = _REF.fullmatch(reference) if isinstance(reference, str) else None
        if found is None or found[2] not in _mapping(self._root, found[1]):
            raise _wrong(f"there is nothing at {shown(reference)}")


def _mapping(schema: dict[str, Any], keyword: str) -> dict[str, Any]:
    value = schema.get(keyword, {})
    if not isinstance(value, dict):
        raise _wrong(f"{keyword} must be an object")
    return value


def _listed(value: object, keyword: str) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(f"{keyword or 'required'} must be a list")
    return value


def _filled(schema: dict[str, Any], keyword: str) -> list[Any]:
    parts = _listed(schema[keyword], keyword)
    if not parts:
        raise _wrong(f"{keyword} must not be empty")
    return parts


def _wrong(why: str) -> InvalidInput:
    return InvalidInput(f"response_format: this schema cannot be enforced: {why}",
                        field="response_format")  # fmt: skip
