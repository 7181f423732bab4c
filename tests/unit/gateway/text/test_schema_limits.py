"""Limits of schemas: ids, patterns and texts."""

from __future__ import annotations

from typing import Any

import pytest

from maas.domain.errors import InvalidInput
from maas.gateway.text.schema_limits import check_schema

Inner = dict[str, Any]


@pytest.mark.parametrize("keyword", ["examples", "example", "default", "const", "enum", "x-meta"])
def test_values_may_have_ids(keyword: str) -> None:
    """As the examples and defaults of pydantic have."""
    value = {"id": "u_1", "$id": "u_2"}
    part = {keyword: [value] if keyword in ("examples", "enum") else value}
    check_schema({"type": "object", "properties": {"a": part}, **part}, "schema")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^[a-z]{2,5}-[0-9]+(\\.[0-9]+)?$"},
        {"type": "string", "pattern": "(abc)+[(+]*\\(*"},
        {"type": ["string", "null"], "maxLength": 100},
        {"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {"enum": [1]}}},
        {"type": "array", "items": {"type": "object", "properties": {"type": {"enum": ["a"]}}}},
    ],
)
def test_usual_schemas_are_accepted(schema: Any) -> None:
    check_schema(schema, "schema")


@pytest.mark.parametrize(
    "pattern", ["(a+)+", "((a*)b)*", "(a{2,9}){3}", "(a|b+)*c", "a{3000}", "a{1,99999999}"]
)
def test_patterns_that_multiply_are_refused_everywhere(pattern: str) -> None:
    inner = {"type": "string", "pattern": pattern}
    schemas: list[dict[str, Any]] = [
        inner,
        {"items": inner},
        {"properties": {"a": {"anyOf": [{"type": "null"}, inner]}}},
        {"patternProperties": {pattern: {}}},
        {"$defs": {"a": {"additionalProperties": inner}}},
    ]
    for schema in schemas:
        with pytest.raises(InvalidInput, match="schema: pattern"):
            check_schema(schema, "schema")


@pytest.mark.parametrize(
    "schema",
    [
        {"const": "z" * 33_000},
        {"properties": {"z" * 33_000: {}}},
        {"enum": ["z" * 1000 + str(n) for n in range(101)]},
    ],
)
def test_long_texts_are_refused(schema: Inner) -> None:
    with pytest.raises(InvalidInput, match="at most 32000 characters in a text and 100000 in all"):
        check_schema(schema, "schema")
