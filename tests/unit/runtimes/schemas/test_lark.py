"""Schemas whose numbers may lie below 0, as rules: they allow what the schema does."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from typing import Any

import jsonschema
import pytest

pytest.importorskip("llguidance", reason="needs the extra llm")

from maas.domain.errors import InvalidInput
from maas.runtimes.schemas.llama_limits import held_schema
from maas.runtimes.schemas.llguidance import json_grammar
from tests.unit.runtimes.schemas.test_llguidance import allows

SHIFT = {"type": "number", "minimum": -2.5, "maximum": 2.5}


def ruled(schema: dict[str, Any]) -> str:
    return json_grammar({"type": "json_schema", "schema": schema})


def closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required),
            "additionalProperties": False}  # fmt: skip


def same(schema: dict[str, Any], values: list[Any]) -> None:
    """Whether just those of `values` may be written that are valid, of which there are some."""
    found = {True: 0, False: 0}
    for value in values:
        is_valid = jsonschema.Draft202012Validator(schema).is_valid(value)
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        assert allows(schema, text) == is_valid, text
        found[is_valid] += 1
    assert found[True] and found[False]


Bounds = dict[str, float]
LOWS: list[Bounds] = [{}, {"minimum": -3}, {"exclusiveMinimum": -3}, {"minimum": -1.5,
    "exclusiveMinimum": -9}, {"minimum": -3, "exclusiveMinimum": -3}]  # fmt: skip
HIGHS: list[Bounds] = [{}, {"maximum": 2}, {"exclusiveMaximum": 0}, {"maximum": 0},
    {"maximum": -1}, {"exclusiveMaximum": -1, "maximum": 5}]  # fmt: skip
NUMBERS = [-9, -3, -2.75, -1.5, -1.25, -1, -0.25, 0, 0.25, 1.5, 2, 3]


@pytest.mark.parametrize("kind", ["number", "integer"])
@pytest.mark.parametrize("step", [{}, {"multipleOf": 0.25}, {"multipleOf": 3}])
def test_all_numbers_within_the_bounds_and_no_others(kind: str, step: dict[str, Any]) -> None:
    for low, high in itertools.product(LOWS, HIGHS):
        schema: dict[str, Any] = {"type": kind, **low, **high, **step}
        values = [value for value in NUMBERS if kind == "number" or isinstance(value, int)]
        if step.get("multipleOf") == 0.25:
            # The library wants all digits of a step: 1.50.
            values = [value for value in values if value * 2 % 1 or value % 1 == 0]
        if any(jsonschema.Draft202012Validator(schema).is_valid(value) for value in values):
            same(schema, [*values, "1", None])


@pytest.mark.parametrize("required", [(), ("a",), ("b",), ("c",), ("a", "c"), ("a", "b", "c")])
def test_properties_may_be_left_out_where_they_may(required: tuple[str, ...]) -> None:
    names = {"a": SHIFT, "b": {"type": "string"}, "c": {"type": ["number", "null"]}}
    schema = closed(names, *required)
    values: dict[str, Any] = {"a": -1.5, "b": "x", "c": None}
    some = [dict(of) for n in range(4) for of in itertools.combinations(values.items(), n)]
    same(schema, [*some, {"a": 3}, {"d": 1}, {"a": 1, "b": "x", "c": 1, "d": 1}, []])
    assert not allows(schema, '{"a":1,}') and not allows(schema, '{"a":1 ,"b":"x","c":1}')


ARRAYS: list[dict[str, Any]] = [
    {"items": SHIFT},
    {"items": SHIFT, "minItems": 1},
    {"items": SHIFT, "minItems": 2, "maxItems": 3},
    {"items": SHIFT, "maxItems": 1},
    {"items": SHIFT, "maxItems": 0},
    {"prefixItems": [SHIFT, {"type": "string"}], "items": SHIFT},
    {"prefixItems": [SHIFT, {"type": "string"}], "items": False},
    {"prefixItems": [SHIFT, {"type": "string"}], "items": SHIFT, "minItems": 1, "maxItems": 3},
    {"prefixItems": [SHIFT, {"type": "string"}], "minItems": 2, "maxItems": 2},
    {"prefixItems": [SHIFT, {"type": "string"}], "items": SHIFT, "minItems": 3},
    {"prefixItems": [SHIFT, {"type": "string"}], "items": SHIFT, "maxItems": 1},
]


@pytest.mark.parametrize("array", ARRAYS)
def test_as_many_items_as_may_be(array: dict[str, Any]) -> None:
    values: list[Any] = [[], [-1], [-1, -2], [-1, "x"], [-1, -2, 0.5], [-1, "x", -2], ["x"], [-9]]
    same({"type": "array"} | array, [*values, [-1, -2, 1, 1], [-1, "x", 1, 1], [-1, "x", 1, "x"]])
    assert not allows({"type": "array"} | array, "[-1,]")


def test_definitions_and_alternatives() -> None:
    schema = {
        **closed({"at": {"$ref": "#/$defs/at"}, "next": {"anyOf": [{"$ref": "#"}]}}, "at"),
        "$defs": {
            "at": {"anyOf": [{"$ref": "#/$defs/pair"}, {"type": "null"}], "title": "Where"},
            "pair": {"type": "array", "items": {"$ref": "#/$defs/shift"}, "maxItems": 2},
            "shift": SHIFT,
            "tree": closed({"left": {"$ref": "#/$defs/tree"}, "d": SHIFT}, "d"),
        },
    }
    at = closed({"at": {"$ref": "#/$defs/at"}, "no": {"const": -1.5}}, "at")
    for made in (schema, at | {"$defs": schema["$defs"]}):
        same(made, [{"at": [-1.5, 2]}, {"at": None}, {"at": [-3]}, {"at": "x"}, {}])
    assert ruled(at | {"$defs": schema["$defs"]}).count("definition1:") == 1
    tree = {"$ref": "#/$defs/tree", "$defs": schema["$defs"]}
    same(tree, [{"d": 1}, {"left": {"left": {"d": -1}, "d": -2}, "d": 0}, {"left": {}, "d": 1}])
    assert "definition0:" in ruled(tree)


def test_several_types_each_with_their_own() -> None:
    schema = {
        "type": ["object", "array", "null", "integer", "number"], "properties": {"a": SHIFT},
        "items": SHIFT, "maxItems": 2, "minimum": -1, "additionalProperties": False,
        "description": "x", "readOnly": True,
    }  # fmt: skip
    same(schema, [{"a": -2}, [-2, 1], None, -0.5, 7, -2, "x", {"a": 3}, [1, 1, 1], {"b": 1}])
    assert not allows(schema, "7." + "1" * 30)
    assert not allows({"type": "number", "format": "double", "nullable": True}, "1" * 40)


@pytest.mark.parametrize("name", ["né", "a b", 'q"x', "back\\slash", "line\n", "", "%json"])
def test_names_are_written_as_json_writes_them(name: str) -> None:
    same(closed({name: SHIFT}, name), [{name: -1}, {name: 9}, {name + "x": 1}])


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": SHIFT}, "patternProperties": {"^b": {}}},
        {"allOf": [SHIFT, {"multipleOf": 0.5}]},
        SHIFT | {"allOf": [{"minimum": 1}]},
        SHIFT | {"anyOf": [{"minimum": 1}, {"maximum": -1}]},
        SHIFT | {"oneOf": [{"minimum": 1}, {"maximum": -1}]},
        SHIFT | {"not": {"const": 1}},
        SHIFT | {"$ref": "#/$defs/a", "$defs": {"a": {"minimum": 1}}},
        {"type": ["number", "null"], "anyOf": [{"type": "null"}, {"minimum": 5}]},
        {"type": "array", "items": SHIFT, "contains": {}},
        closed({"a": SHIFT}, "a") | {"$id": "https://example.org/a"},
        {"type": "array", "items": {"$ref": "#/properties/a"}, "properties": {"a": SHIFT}},
        closed({"a": SHIFT}, "b"),
        {"type": "array", "items": SHIFT, "minItems": 2, "maxItems": 1},
        SHIFT | {"minimum": "x"},
    ],
)
def test_what_rules_cannot_say_is_left_to_the_library(schema: dict[str, Any]) -> None:
    try:
        assert ruled(schema).startswith("%llguidance {}\nstart: %json ")
    except InvalidInput as wrong:
        assert "cannot be enforced" in wrong.message
    else:
        is_number = "minimum" in schema or "null" in schema.get("type", ())
        assert not is_number or not allows(schema, "0.5")


def test_other_names_come_last_and_are_others() -> None:
    """Where a schema does not say that there are none, as pydantic's do not."""
    for required in ([], ["b"], ["a"]):
        schema = {"type": "object", "properties": {"a": SHIFT, "b": SHIFT}, "required": required}
        some = [{}, {"a": -1}, {"b": -1}, {"a": 1, "b": 2}, {"a": 1, "b": 2, "c": "x", "d": {}}]
        same(schema, [*some, {"b": -2, "ab": None}, {"x/y é": 1}, {"a": 9, "b": 1}, 1])
        assert not allows(schema, '{"c":1,"a":-9,"b":1}')
    same({"type": "object", "properties": {"": SHIFT}}, [{"": 1}, {"a": 1}, {"": "x"}])
    assert not allows({"type": "object", "properties": {"": SHIFT}}, '{"a":1,"":"x"}')
    late = {"type": "object", "properties": {"a": SHIFT}, "required": ["b"]}
    same(late, [{"a": -1, "b": "x"}, {"b": 1}, {"a": 1}, {"a": 9, "b": 1}])
    late["additionalProperties"] = SHIFT
    same(late, [{"a": -1, "b": -2}, {"b": 1, "c": -1}, {"a": 1}, {"b": 9}, {"b": "x"}])
    shares = {"type": "object", "additionalProperties": SHIFT}
    same(shares, [{}, {"x": -1.5}, {"x": -1.5, "y": 2}, {"x": 3}, {"x": "y"}])


def test_all_ways_to_write_0() -> None:
    for schema in (SHIFT, SHIFT | {"maximum": 0}, SHIFT | {"multipleOf": 0.01}):
        for text in ("0", "0.0", "-0.5", "-0"):
            assert allows(schema, text), (schema, text)
    assert allows(SHIFT | {"multipleOf": 0.01}, "0.00")
    assert not allows(SHIFT | {"maximum": 0}, "0.5")
    assert not allows({"type": "integer", "maximum": 0, "multipleOf": 2}, "0.0")


def test_a_side_without_a_number_is_left_out() -> None:
    even = {"type": "integer", "minimum": -10, "maximum": 1, "multipleOf": 2}
    same(even, [0, 1, -2, -10, 2, -3])
    json_grammar({"schema": even}, lambda part: held_schema(part, "response_format"))
    halves = {"type": "number", "minimum": -0.1, "maximum": 10, "multipleOf": 0.5}
    same(halves, [0, 0.5, -0.5, 7])
    same({"type": "integer", "exclusiveMinimum": -1, "maximum": 3}, [0, 3, -1])
    with pytest.raises(InvalidInput, match="cannot be enforced"):
        ruled({"type": "number", "minimum": -0.4, "exclusiveMaximum": 0, "multipleOf": 0.5})


def names(count: int, value: dict[str, Any]) -> dict[str, Any]:
    return {f"n{at}": value for at in range(count)}


@pytest.mark.parametrize(
    "schema",
    [
        closed(names(1900, SHIFT), *names(1900, SHIFT)),
        closed(names(1900, SHIFT), "n0"),
        closed(names(1900, SHIFT), "n1899"),
        closed(names(1900, SHIFT)),
        closed(names(30, SHIFT)),
        {"$defs": {f"d{at}": {"$ref": f"#/$defs/d{at + 1}"} for at in range(120)}
                  | {"d120": closed({"a": SHIFT}, "a")}, "$ref": "#/$defs/d0"},
        {"$defs": {f"d{at}": {"type": "array", "prefixItems": [SHIFT] * 7 + [
            {"$ref": f"#/$defs/d{at + 1}"}]} for at in range(66)} | {"d66": SHIFT},
         "$ref": "#/$defs/d0"},
        {"$defs": {f"d{at}": {"type": "object", "properties": {"a": SHIFT, "b": SHIFT, "c": {
            "$ref": f"#/$defs/d{at + 1}"}}} for at in range(66)} | {"d66": SHIFT},
         "$ref": "#/$defs/d0"},
        {"$defs": {f"d{at}": {"anyOf": [{"$ref": f"#/$defs/d{at + 1}"}, {"type": "null"}]}
                   for at in range(98)} | {"d98": SHIFT}, "$ref": "#/$defs/d0"},
        {"$defs": {f"d{at}": {"allOf": [{"$ref": "#/$defs/d0"}, SHIFT]} for at in range(90)},
         "type": "array", "items": {"anyOf": [{"$ref": f"#/$defs/d{at}"} for at in range(90)]}},
    ],
)  # fmt: skip
def test_large_schemas_are_compiled_on_a_small_stack(schema: dict[str, Any]) -> None:
    """The library is recursive, and would end the process. A thread has 2 MiB at least."""
    said: list[str | InvalidInput] = []

    def compiled() -> None:
        try:
            said.append(ruled(schema))
        except InvalidInput as wrong:
            said.append(wrong)

    kept = threading.stack_size(2 << 20)
    try:
        thread = threading.Thread(target=compiled)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(kept)
    assert said and len(str(said[0])) < 1 << 20


def test_rules_that_would_be_very_long_are_not_made() -> None:
    """Each part that stays a JSON schema has the definitions that it refers to."""
    part = {"allOf": [{"$ref": "#/$defs/all"}]}
    found = {"all": {"enum": [f"value{at}" for at in range(400)]}}
    schema = {"type": "array", "prefixItems": [SHIFT, *[part] * 30], "$defs": found}
    assert "rule0" in ruled(schema)
    schema["prefixItems"] = [SHIFT, *[part] * 43]
    found["all"]["enum"] = [f"value{at}" for at in range(2000)]
    assert "rule0" not in ruled(schema)


@pytest.mark.parametrize(
    "schema",
    [
        closed({"a": SHIFT}) | {"required": [["a"]]},
        {"type": "string", "x": {"type": [{"a": 1}], "multipleOf": 2}},
        {"type": "number", "minimum": 10**400},
        {"type": "number", "multipleOf": 10**400},
        {"type": "number", "multipleOf": "x"},
        {"type": "number", "minimum": True, "maximum": -1},
        {"type": [["number"]], "minimum": -1},
        {"type": "object", "properties": {"a": SHIFT}, "required": "a"},
        {"type": "object", "properties": [SHIFT]},
        {"type": "array", "items": SHIFT, "minItems": "x"},
        {"type": "array", "prefixItems": SHIFT},
        {"anyOf": [SHIFT], "$defs": [1]},
        {"$ref": 5, "items": SHIFT},
        {"$ref": "#/$defs/a", "items": SHIFT, "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"type": "array", "items": {"anyOf": SHIFT}},
        {"type": "number", "enum": 5, "minimum": -3},
    ],
)
def test_odd_schemas_are_refused_or_compiled_and_nothing_else(schema: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidInput):
        json_grammar({"schema": schema}, lambda part: held_schema(part, "response_format"))


def test_multiples_below_0_are_held_by_an_engine_that_knows_none() -> None:
    cold = closed({"degrees": {"type": "number", "maximum": 5, "multipleOf": 0.5}}, "degrees")

    def held(schema: Any) -> Any:
        return held_schema(schema, "response_format")

    assert "multipleOf" in json_grammar({"schema": cold}, held)
    open_ended = {"allOf": [cold]}
    with pytest.raises(InvalidInput, match="multipleOf here only beside"):
        json_grammar({"schema": open_ended}, held)
