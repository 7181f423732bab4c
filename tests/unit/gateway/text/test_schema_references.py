"""References in schemas: their depth, because engines follow them by recursion, and copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from maas.domain.errors import InvalidInput
from maas.gateway.text.schema_limits import check_schema
from maas.gateway.text.schema_references import MAX_NESTED

Inner = dict[str, Any]


def links(count: int, around: Callable[[Inner], Inner], place: str = "$defs") -> Inner:
    return {f"d{at}": around({"$ref": f"#/{place}/d{at + 1}"}) for at in range(count)}


def chain(count: int, around: Callable[[Inner], Inner], last: Inner) -> Inner:
    """Definitions that each contain a reference to the next."""
    definitions = links(count, around)
    return {"$ref": "#/$defs/d0", "$defs": definitions | {f"d{count}": last}}


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
def test_a_long_path_through_references_is_refused(
    around: Callable[[Inner], Inner], last: Inner
) -> None:
    """Also if it is a circle, which counts once."""
    check_schema(chain(10, around, last), "schema")
    for count in (MAX_NESTED + 1, 600):
        with pytest.raises(
            InvalidInput, match=f"schema: expected at most {MAX_NESTED} levels deep, including"
        ):
            check_schema(chain(count, around, last), "schema")


def test_circles_behind_circles_count_together() -> None:
    def circle(start: int, count: int, then: str) -> Inner:
        definitions: Inner = {}
        for at in range(start, start + count):
            next_one = {"$ref": f"#/$defs/d{at + 1}"}
            definitions[f"d{at}"] = {"anyOf": [next_one, {"$ref": then}]}
        return definitions | {f"d{start + count}": {"$ref": f"#/$defs/d{start}"}}

    def schema(count: int) -> Inner:
        definitions = circle(0, count, "#/$defs/d100") | circle(100, count, "#")
        return {"items": {"$ref": "#/$defs/d0"}, "$defs": definitions}

    check_schema(schema(20), "schema")
    with pytest.raises(InvalidInput, match="levels deep"):
        check_schema(schema(60), "schema")


def test_syntax_trees_are_allowed() -> None:
    """Their nodes refer to each other, but each path is short: through the list of all nodes."""
    inner = {"type": "array", "items": {"$ref": "#/$defs/any"}}
    kinds = {f"k{at}": {"properties": {"kind": {"const": at}, "inner": inner}} for at in range(80)}
    definitions = kinds | {"any": {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in kinds]}}
    check_schema({"$ref": "#/$defs/any", "$defs": definitions}, "schema")


def test_no_part_has_an_id() -> None:
    """References in it would be resolved from there, where nothing was checked."""
    with_id = {"$id": "http://x/", **chain(900, AROUND[1], {})}
    for part in (with_id, {"id": "x", "$schema": "http://json-schema.org/draft-04/schema#"}):
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


@pytest.mark.parametrize("place", ["#/x/a", "#/properties/b/default", "#/x/b/0"])
@pytest.mark.parametrize(
    "invalid", [{"minItems": 20_000_000}, {"items": {"pattern": "(a+)+"}}, {"type": "bogus"}]
)
def test_limits_hold_wherever_a_reference_leads(place: str, invalid: Inner) -> None:
    schema = {"x": {"a": invalid, "b": [invalid]}, "properties": {"b": {"default": invalid}}}
    check_schema(schema, "schema")  # no reference leads there
    with pytest.raises(InvalidInput, match="schema: "):
        check_schema(schema | {"items": {"$ref": place}}, "schema")


@pytest.mark.parametrize("around", [lambda inner: [[inner]], lambda inner: {"x": [[[inner]]]}])
def test_references_are_found_everywhere(around: Callable[[Inner], Any]) -> None:
    reference = {"$ref": "#/x/0", "type": "array"}
    check_schema({"y": around(reference), "x": [{"items": {}}]}, "schema")
    with pytest.raises(InvalidInput, match="minItems"):
        check_schema({"y": around(reference), "x": [{"minItems": -1}]}, "schema")


def test_a_long_number_in_a_pointer_leads_nowhere() -> None:
    check_schema({"$ref": "#/prefixItems/" + "1" * 5000, "prefixItems": [{}]}, "schema")


def test_many_definitions_without_references_are_allowed() -> None:
    leaf = {"type": "object", "properties": {"a": {"type": "string"}}}
    definitions = {f"d{at}": leaf for at in range(400)}
    everything = [{"$ref": f"#/$defs/{name}"} for name in definitions]
    check_schema({"anyOf": everything, "$defs": definitions}, "schema")


@pytest.mark.parametrize("target", ["#", "#/$defs", "#/properties/a~1b", "#/items/0", "#/no", "#x"])
def test_any_place_in_the_schema_may_be_referred_to(target: str) -> None:
    schema = {"properties": {"a/b": {}}, "items": [{}], "anyOf": [{"$ref": target}], "$defs": {}}
    check_schema(schema, "schema")


def test_a_long_path_is_found_through_other_places_and_encoded_names() -> None:
    properties = links(200, AROUND[1], "properties") | {"d200": {}}
    for schema in (
        {"properties": properties, "items": {"$ref": "#/properties/d0"}},
        {"$ref": "#/%24defs/d%30", "$defs": links(200, AROUND[1]) | {"d200": {}}},
    ):
        with pytest.raises(InvalidInput, match="levels deep"):
            check_schema(schema, "schema")


def test_references_to_places_within_each_other_are_limited() -> None:
    names = ["#" + "".join(f"%{ord(c):02x}" if at >> i & 1 else c for i, c in enumerate("/$defs"))
             for at in range(64)]  # fmt: skip
    schema = {"anyOf": [{"$ref": name} for name in names], "$defs": {"a": [0] * 4000}}
    with pytest.raises(InvalidInput, match="lead to each other too often"):
        check_schema(schema, "schema")


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
        annotated = {**ref, "description": "x", "default": {}}
        return {"properties": {"a": annotated, "b": {"allOf": [ref], "title": "b"}, "c": annotated}}

    check_schema(chain(25, around, {"type": "object"}), "schema")
    base = {"properties": {f"p{n}": {"type": "string"} for n in range(20)}}
    kinds = {
        f"k{n}": {"allOf": [{"$ref": "#/$defs/base"}, {"required": ["p1"]}]} for n in range(60)
    }
    every = [{"$ref": f"#/$defs/{name}"} for name in kinds]
    check_schema({"anyOf": every, "$defs": kinds | {"base": base}}, "schema")
