"""How deep a schema may go behind references: the libraries of engines go there by recursion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from maas.domain.errors import InvalidInput
from maas.gateway.text.schema_limits import MAX_NESTED, check_schema

Inner = dict[str, Any]


def links(count: int, around: Callable[[Inner], Inner], place: str = "$defs") -> Inner:
    return {f"d{at}": around({"$ref": f"#/{place}/d{at + 1}"}) for at in range(count)}


def chain(count: int, around: Callable[[Inner], Inner], last: Inner) -> Inner:
    """Definitions, each with the next in it."""
    found = links(count, around)
    return {"$ref": "#/$defs/d0", "$defs": found | {f"d{count}": last}}


AROUND: list[Callable[[Inner], Inner]] = [
    lambda inner: inner,
    lambda inner: {"items": inner},
    lambda inner: {"anyOf": [inner, {"type": "null"}]},
    lambda inner: {"type": "object", "properties": {"a": inner}},
    lambda inner: {"patternProperties": {"^a": {"prefixItems": [{"allOf": [inner]}]}}},
]


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize(
    "last", [{"type": "array"}, {"$ref": "#/$defs/d0"}, {"$ref": "#/$defs/d9"}]
)
def test_a_long_way_through_references_is_refused(
    around: Callable[[Inner], Inner], last: Inner
) -> None:
    """Also if it is a circle, which is gone through once."""
    check_schema(chain(10, around, last), "schema")
    for count in (MAX_NESTED + 1, 600):
        with pytest.raises(InvalidInput, match=f"schema: at most {MAX_NESTED} levels deep, with"):
            check_schema(chain(count, around, last), "schema")


def test_circles_behind_circles_count_together() -> None:
    def circle(start: int, count: int, then: str) -> Inner:
        found = {f"d{at}": {"anyOf": [{"$ref": f"#/$defs/d{at + 1}"}, {"$ref": then}]}
                 for at in range(start, start + count)}  # fmt: skip
        return found | {f"d{start + count}": {"$ref": f"#/$defs/d{start}"}}

    def schema(count: int) -> Inner:
        found = circle(0, count, "#/$defs/d100") | circle(100, count, "#")
        return {"items": {"$ref": "#/$defs/d0"}, "$defs": found}

    check_schema(schema(20), "schema")
    with pytest.raises(InvalidInput, match="levels deep"):
        check_schema(schema(60), "schema")


def test_syntax_trees_are_allowed() -> None:
    """Their nodes lead to each other, but each way is short: through the one that knows all."""
    inner = {"type": "array", "items": {"$ref": "#/$defs/any"}}
    kinds = {f"k{at}": {"properties": {"kind": {"const": at}, "inner": inner}} for at in range(80)}
    found = kinds | {"any": {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in kinds]}}
    check_schema({"$ref": "#/$defs/any", "$defs": found}, "schema")


def test_no_part_has_a_name_of_its_own() -> None:
    """References in it would start there, and lead where nobody looked."""
    long = {"$id": "http://x/", **chain(900, AROUND[1], {})}
    for part in (long, {"id": "x", "$schema": "http://json-schema.org/draft-04/schema#"}):
        for schema in (
            {"$ref": "#/$defs/x", "$defs": {"x": part}},
            {"$ref": "#/x/0", "x": [part]},
            {"items": part},
        ):
            with pytest.raises(InvalidInput, match=r"only the whole schema may have an \$?id"):
                check_schema(schema, "schema")
    check_schema(
        {"$id": "http://x/", "properties": {"$id": {}, "id": {"type": "string"}}}, "schema"
    )


@pytest.mark.parametrize("keyword", ["examples", "example", "default", "const", "enum", "x-meta"])
def test_values_may_have_names(keyword: str) -> None:
    """As pydantic's examples and defaults do."""
    value = {"id": "u_1", "$id": "u_2"}
    part = {keyword: [value] if keyword in ("examples", "enum") else value}
    check_schema({"type": "object", "properties": {"a": part}, **part}, "schema")


@pytest.mark.parametrize("place", ["#/x/a", "#/properties/b/default", "#/x/b/0"])
@pytest.mark.parametrize(
    "wrong", [{"minItems": 20_000_000}, {"items": {"pattern": "(a+)+"}}, {"type": "bogus"}]
)
def test_limits_hold_wherever_a_reference_leads(place: str, wrong: Inner) -> None:
    schema = {"x": {"a": wrong, "b": [wrong]}, "properties": {"b": {"default": wrong}}}
    check_schema(schema, "schema")  # nobody asks for it
    with pytest.raises(InvalidInput, match="schema: "):
        check_schema(schema | {"items": {"$ref": place}}, "schema")


@pytest.mark.parametrize("around", [lambda inner: [[inner]], lambda inner: {"x": [[[inner]]]}])
def test_references_are_found_wherever_they_are(around: Callable[[Inner], Any]) -> None:
    reference = {"$ref": "#/x/0", "type": "array"}
    check_schema({"y": around(reference), "x": [{"items": {}}]}, "schema")
    with pytest.raises(InvalidInput, match="minItems"):
        check_schema({"y": around(reference), "x": [{"minItems": -1}]}, "schema")


def test_a_long_number_in_a_pointer_is_none() -> None:
    check_schema({"$ref": "#/prefixItems/" + "1" * 5000, "prefixItems": [{}]}, "schema")


def test_many_definitions_that_do_not_lead_on_are_allowed() -> None:
    leaf = {"type": "object", "properties": {"a": {"type": "string"}}}
    found = {f"d{at}": leaf for at in range(400)}
    everything = [{"$ref": f"#/$defs/{name}"} for name in found]
    check_schema({"anyOf": everything, "$defs": found}, "schema")


@pytest.mark.parametrize("target", ["#", "#/$defs", "#/properties/a~1b", "#/items/0", "#/no", "#x"])
def test_any_place_in_the_schema_may_be_referred_to(target: str) -> None:
    schema = {"properties": {"a/b": {}}, "items": [{}], "anyOf": [{"$ref": target}], "$defs": {}}
    check_schema(schema, "schema")


def test_the_long_way_is_found_through_other_places_and_names() -> None:
    properties = links(200, AROUND[1], "properties") | {"d200": {}}
    for schema in (
        {"properties": properties, "items": {"$ref": "#/properties/d0"}},
        {"$ref": "#/%24defs/d%30", "$defs": links(200, AROUND[1]) | {"d200": {}}},
    ):
        with pytest.raises(InvalidInput, match="levels deep"):
            check_schema(schema, "schema")


def test_references_to_what_holds_each_other_are_not_looked_through_for_long() -> None:
    names = ["#" + "".join(f"%{ord(c):02x}" if at >> i & 1 else c for i, c in enumerate("/$defs"))
             for at in range(64)]  # fmt: skip
    schema = {"anyOf": [{"$ref": name} for name in names], "$defs": {"a": [0] * 4000}}
    with pytest.raises(InvalidInput, match="lead to each other too often"):
        check_schema(schema, "schema")


@pytest.mark.parametrize("step", [9999, 0.01, 1e-9, 99.99, 2.5, 10_000])
def test_usual_multiples_are_taken(step: float) -> None:
    check_schema({"type": "number", "multipleOf": step}, "schema")


@pytest.mark.parametrize("step", [10_001, 99_999_989, 100.01, 1e-10, 1 / 3, 0, -1, "1", True, 1e15])
def test_multiples_that_engines_would_count_for_long_are_refused(step: Any) -> None:
    for schema in ({"multipleOf": step}, {"properties": {"a": {"multipleOf": step}}}):
        with pytest.raises(InvalidInput, match="schema: multipleOf: expected a number above 0"):
            check_schema(schema, "schema")


SEVERAL: list[Inner] = [{"multipleOf": 101}, {"multipleOf": 103}]
NAMED: Inner = {"$defs": {"a": SEVERAL[0], "o": {"properties": {"p": SEVERAL[0]}}}}


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": SEVERAL},
        {"items": {"$ref": "#/$defs/a", "multipleOf": 103}} | NAMED,
        {"multipleOf": 101, "allOf": SEVERAL[1:]},
        {"multipleOf": 101, "anyOf": SEVERAL[1:]},
        {"multipleOf": 101, "oneOf": SEVERAL[1:]},
        {"anyOf": SEVERAL[1:], "oneOf": SEVERAL[:1]},
        {"properties": {"a": SEVERAL[0]}, "patternProperties": {"^a": SEVERAL[1]}},
        {"allOf": [{"properties": {"p": SEVERAL[1]}}, {"$ref": "#/$defs/o"}]} | NAMED,
        {"allOf": [{"additionalProperties": SEVERAL[1]}, {"$ref": "#/$defs/o"}]} | NAMED,
    ],
)
def test_what_must_be_a_multiple_of_several_counts_as_one(schema: Inner) -> None:
    with pytest.raises(InvalidInput, match=r"multipleOf: expected .*, got .*10403"):
        check_schema(schema, "schema")


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": SEVERAL},
        {"allOf": [{"multipleOf": 0.3}, {"multipleOf": 7}]},
        {"properties": {"a": SEVERAL[0], "b": SEVERAL[1],
                        "c": {"$ref": "#/$defs/x", "description": "x", "default": 1}}},
        {"allOf": [{"properties": {"q": SEVERAL[1]}}, {"$ref": "#/$defs/o"}]} | NAMED,
        {"properties": {"a": SEVERAL[0], "b": {"allOf": [{"$ref": "#/$defs/a"}], "title": "B"},
                        "c": SEVERAL[1]}} | NAMED,
    ],
)  # fmt: skip
def test_multiples_of_others_are_none_of_each_other(schema: Inner) -> None:
    check_schema(schema, "schema")


def test_many_different_multiples_are_refused() -> None:
    def schema(count: int) -> Inner:
        return {"properties": {f"p{n}": {"multipleOf": 10_000 - n} for n in range(count)}}

    check_schema(schema(20), "schema")
    check_schema({"properties": {f"p{n}": {"multipleOf": 9999} for n in range(400)}}, "schema")
    with pytest.raises(InvalidInput, match="too many different large multipleOf"):
        check_schema(schema(21), "schema")


@pytest.mark.parametrize(
    "around",
    [
        lambda ref: {
            "properties": {"a": {**ref, "type": "object"}, "b": {**ref, "type": "object"}}
        },
        lambda ref: {"items": {"allOf": [ref, {"type": "object"}]}, "contains": {**ref, "not": {}}},
        lambda ref: {"allOf": [ref, ref]},
    ],
)
def test_references_that_engines_copy_do_not_double(around: Callable[[Inner], Inner]) -> None:
    check_schema(chain(6, around, {"type": "object"}), "schema")
    with pytest.raises(InvalidInput, match="lead to each other too often"):
        check_schema(chain(18, around, {"type": "object"}), "schema")


def test_references_that_engines_do_not_copy_may_double() -> None:
    def around(ref: Inner) -> Inner:
        said = {**ref, "description": "x", "default": {}}
        return {"properties": {"a": said, "b": {"allOf": [ref], "title": "b"}, "c": said}}

    check_schema(chain(25, around, {"type": "object"}), "schema")
    base = {"properties": {f"p{n}": {"type": "string"} for n in range(20)}}
    kinds = {
        f"k{n}": {"allOf": [{"$ref": "#/$defs/base"}, {"required": ["p1"]}]} for n in range(60)
    }
    every = [{"$ref": f"#/$defs/{name}"} for name in kinds]
    check_schema({"anyOf": every, "$defs": kinds | {"base": base}}, "schema")


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
