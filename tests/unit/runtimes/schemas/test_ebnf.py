"""JSON schemas as EBNF: grammars and refusals."""

from __future__ import annotations

from typing import Any

import pytest

from maas.domain.errors import InvalidInput
from maas.runtimes.schemas.ebnf import schema_grammar


def root(schema: Any) -> str:
    text = schema_grammar({"type": "json_schema", "schema": schema})
    return text.partition("\n")[0].removeprefix("root ::= ")


def test_values() -> None:
    assert root({"const": 'a"b\\'}) == r'("\"a\\\"b\\\\\"")'
    assert root({"enum": [1, None, True]}) == '("1" | "null" | "true")'
    assert root({"type": ["string", "null"]}) == "(string | null)"
    grammar = schema_grammar({"schema": {"type": ["string", "null"], "minLength": 2}})
    assert grammar.startswith('root ::= (rule0 | null)\nrule0 ::= "\\"" char{2,} "\\""\n')
    assert root({"type": "integer", "minimum": -1, "maximum": 1}) == '(("-1" | "0" | "1"))'
    assert root({}) == "value"
    assert schema_grammar({"type": "json_object"}).startswith("root ::= object\n")


def test_properties_in_order_and_optional_ones() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "null"}, "b": {"type": "boolean"}},
        "required": ["b"],
    }
    text = schema_grammar({"type": "json_schema", "schema": schema})
    assert r'rule2 ::= "\"a\"" ":" blank (null) rule1 | rule0' in text
    assert r'rule1 ::= "," blank "\"b\"" ":" blank (boolean) ""' in text


def test_a_definition_may_contain_itself() -> None:
    tree = {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 3}
    text = schema_grammar(
        {"type": "json_schema", "schema": {"$ref": "#/$defs/tree", "$defs": {"tree": tree}}}
    )
    assert (
        'rule0 ::= definition0\ndefinition0 ::= ("[" (rule0 ("," blank rule0){0,2})? "]")' in text
    )


def test_nested_arrays_are_not_expanded_twice_each() -> None:
    schema: dict[str, Any] = {"type": "string", "maxLength": 9}
    for _ in range(20):
        schema = {"type": "array", "items": schema, "maxItems": 5}
    assert len(schema_grammar({"schema": schema})) < 5000


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "bogus"},
        {"type": 5},
        {"type": [["string"]]},
        5,
        False,
        {"$ref": "#/nowhere"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}},
        {"type": "string", "pattern": "a+"},
        {"type": "string", "format": "date"},
        {"type": "string", "maxLength": 10**9},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "string", "minLength": True},
        {"type": "number", "minimum": 3},
        {"type": "integer", "minimum": 3},
        {"type": "integer", "minimum": 0, "maximum": 10**9},
        {"type": "object", "properties": {"a": {"not": {}}}},
        {"type": "object", "properties": []},
        {"type": "object", "required": "a"},
        {"type": "object", "required": ["a"], "properties": {}, "additionalProperties": False},
        {"minLength": 3},
        {"oneOf": [{}]},
        {"anyOf": []},
        {"anyOf": [{}], "type": "string"},
        {"enum": [1], "type": "string"},
        {"const": 1, "minimum": 2},
    ],
)
def test_schemas_that_would_not_be_enforced_are_refused(schema: Any) -> None:
    with pytest.raises(InvalidInput, match="cannot be enforced"):
        root(schema)


def test_depth_and_size_are_limited() -> None:
    deep: dict[str, Any] = {"type": "null"}
    for _ in range(50):
        deep = {"type": "array", "items": deep}
    for schema in (deep, {"anyOf": [{"type": "null"}] * 2000}):
        with pytest.raises(InvalidInput, match="levels or"):
            root(schema)
