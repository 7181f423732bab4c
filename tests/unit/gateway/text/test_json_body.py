from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, Struct

from maas.domain.errors import InvalidInput, MalformedBody
from maas.gateway.text.json_body import check_size, parse_object, typed
from maas.gateway.text.schema_limits import check_schema


class Inner(Struct):
    count: Annotated[int, Meta(ge=1, le=3)] = 1


class Outer(Struct):
    name: str
    inner: list[Inner] = []
    share: Annotated[float, Meta(ge=0, le=1)] = 0.5
    kind: Literal["b", "a"] | None = None
    marks: list[Mark] | str = ""


class Mark(Struct):
    color: Literal["red", "blue"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "name is missing"),
        ({"name": 5}, "name: expected str, got 5"),
        ({"name": "a", "share": True}, "share: expected float, got True"),
        ({"name": "a", "share": 1.5}, "share: expected float <= 1.0, got 1.5"),
        ({"name": "a", "kind": "c"}, "kind: expected one of a, b, got 'c'"),
        (
            {"name": "a", "marks": [{"color": "x"}]},
            "marks[0].color: expected one of blue, red, got 'x'",
        ),
        ({"name": "a", "share": float("inf")}, "share: expected float <= 1.0, got inf"),
        ({"name": "a", "inner": [{}, {"count": 4}]}, "inner[1].count: expected int <= 3, got 4"),
        ({"name": "a", "inner": "x" * 99}, "inner: expected array, got a text of length 99"),
    ],
)
def test_a_refusal_names_field_expectation_and_what_came(value: Any, said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        typed(Outer, value)
    assert refused.value.message == said
    assert refused.value.details["field"] == said.partition(":")[0].partition(" ")[0]


@pytest.mark.parametrize(
    ("body", "where"), [(b'{"a": 1, "seed": -%d}', "seed"), (b'{"a": [1, %d]}', "the body")]
)
def test_a_number_that_is_too_long_is_named(body: bytes, where: str) -> None:
    with pytest.raises(MalformedBody) as refused:
        parse_object(body.replace(b"%d", b"9" * 5000))
    assert refused.value.message == (
        f"{where}: expected numbers of at most 4300 digits, got a longer one"
    )


def test_a_good_body_is_read_without_its_nulls() -> None:
    body = parse_object(b'{"name": "\\ud83d\\ude00", "share": null, "inner": [{"count": 2}]}')
    assert body == {"name": "\U0001f600", "inner": [{"count": 2}]}
    assert typed(Outer, body) == Outer("\U0001f600", [Inner(2)])


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"null", b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": 1, "a": 1}',
        b'{"b": [{"a": 1, "a": 1}]}', b'{"a": "\\ud800"}', b'{"a": "\xff"}', b'{"a": 1',
        b'{"a": ' * 5000, b"[" * 5000, b'{"a": ' + b"9" * 9999 + b"}", b"{" * 200_000,
    ],
    ids=lambda body: str(body[:20]),
)  # fmt: skip
def test_what_is_no_plain_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        parse_object(body)


def test_values_of_free_form_have_a_size() -> None:
    check_size({"a": [1, {"b": None}]}, "f")
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    for wrong in (deep, list(range(6000)), [1e400], [10**30]):
        with pytest.raises(InvalidInput, match="f"):
            check_size(wrong, "f")


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
def test_usual_schemas_are_taken(schema: Any) -> None:
    check_schema(schema, "schema")


@pytest.mark.parametrize(
    "pattern", ["(a+)+", "((a*)b)*", "(a{2,9}){3}", "(a|b+)*c", "a{3000}", "a{1,99999999}"]
)
def test_patterns_that_multiply_are_refused_wherever_they_are(pattern: str) -> None:
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
