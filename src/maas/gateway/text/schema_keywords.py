"""Which keywords of a JSON Schema restrict a value, and which of them are combined."""

from __future__ import annotations

from typing import Any

from maas.domain.json_schema import ANNOTATIONS

_COMBINING = frozenset({"$ref", "allOf", "anyOf", "oneOf"})


def constraints(schema: dict[str, Any]) -> set[str]:
    """The keywords of `schema` that restrict which values are valid."""
    return schema.keys() - ANNOTATIONS


def is_intersection(schema: dict[str, Any]) -> bool:
    """Whether a value must satisfy several schemas, which engines merge into one."""
    keywords = constraints(schema)
    has_parts = isinstance(schema.get("allOf"), list) and len(schema["allOf"]) > 1
    combines = bool(_COMBINING & keywords) and len(keywords) > 1
    return has_parts or combines or "patternProperties" in schema
