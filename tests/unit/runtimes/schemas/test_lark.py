"""Schemas with negative numbers as Lark rules, which allow what the schema allows."""

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
from maas.runtimes.schemas.llama_limits import enforceable
from maas.runtimes.schemas.llguidance import json_grammar
from tests.unit.runtimes.schemas.test_llguidance import allows

SHIFT = {"type": "number", "minimum": -2.5, "maximum": 2.5}


def grammar_of(schema: dict[str, Any]) -> str:
    return json_grammar({"type": "json_schema", "schema": schema})


def closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required),
            "additionalProperties": False}  # fmt: skip


def same(schema: dict[str, Any], values: list[Any]) -> None:
    """Asserts that the grammar allows exactly the valid ones of `values`, of which there are some
    of both kinds."""
    counts = {True: 0, False: 0}
    for value in values:
        is_valid = jsonschema.Draft202012Validator(schema).is_valid(value)
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        assert allows(schema, text) == is_valid, text
        counts[is_valid] += 1
    assert counts[True] and counts[False]


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
            # The library requires all digits of a step: 1.50.
            values = [value for value in values if value * 2 % 1 or value % 1 == 0]
        if any(jsonschema.Draft202012Validator(schema).is_valid(value) for value in values):
            same(schema, [*values, "1", None])


@pytest.mark.parametrize("required", [(), ("a",), ("b",), ("c",), ("a", "c"), ("a", "b", "c")])
def test_only_required_properties_are_required(required: tuple[str, ...]) -> None:
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
def test_the_number_of_items_is_within_its_limits(array: dict[str, Any]) -> None:
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
    for variant in (schema, at | {"$defs": schema["$defs"]}):
        same(variant, [{"at": [-1.5, 2]}, {"at": None}, {"at": [-3]}, {"at": "x"}, {}])
    assert grammar_of(at | {"$defs": schema["$defs"]}).count("definition1:") == 1
    tree = {"$ref": "#/$defs/tree", "$defs": schema["$defs"]}
    same(tree, [{"d": 1}, {"left": {"left": {"d": -1}, "d": -2}, "d": 0}, {"left": {}, "d": 1}])
    assert "definition0:" in grammar_of(tree)


def test_several_types_each_with_its_own_keywords() -> None:
    schema = {
        "type": ["object", "array", "null", "integer", "number"], "properties": {"a": SHIFT},
        "items": SHIFT, "maxItems": 2, "minimum": -1, "additionalProperties": False,
        "description": "x", "readOnly": True,
    }  # fmt: skip
    same(schema, [{"a": -2}, [-2, 1], None, -0.5, 7, -2, "x", {"a": 3}, [1, 1, 1], {"b": 1}])
    assert not allows(schema, "7." + "1" * 30)
    assert not allows({"type": "number", "format": "double", "nullable": True}, "1" * 40)


@pytest.mark.parametrize("name", ["né", "a b", 'q"x', "back\\slash", "line\n", "", "%json"])
def test_names_are_escaped_as_in_json(name: str) -> None:
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
def test_schemas_that_rules_cannot_express_are_left_to_the_library(schema: dict[str, Any]) -> None:
    try:
        assert grammar_of(schema).startswith("%llguidance {}\nstart: %json ")
    except InvalidInput as wrong:
        assert "cannot be enforced" in wrong.message
    else:
        is_number = "minimum" in schema or "null" in schema.get("type", ())
        assert not is_number or not allows(schema, "0.5")


def test_additional_properties_come_last_and_have_other_names() -> None:
    """Where a schema does not forbid them, as pydantic's do not."""
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


def test_all_forms_of_0() -> None:
    for schema in (SHIFT, SHIFT | {"maximum": 0}, SHIFT | {"multipleOf": 0.01}):
        for text in ("0", "0.0", "-0.5", "-0"):
            assert allows(schema, text), (schema, text)
    assert allows(SHIFT | {"multipleOf": 0.01}, "0.00")
    assert not allows(SHIFT | {"maximum": 0}, "0.5")
    assert not allows({"type": "integer", "maximum": 0, "multipleOf": 2}, "0.0")


def test_a_sign_without_numbers_is_left_out() -> None:
    even = {"type": "integer", "minimum": -10, "maximum": 1, "multipleOf": 2}
    same(even, [0, 1, -2, -10, 2, -3])
    json_grammar({"schema": even}, lambda part: enforceable(part, "response_format"))
    halves = {"type": "number", "minimum": -0.1, "maximum": 10, "multipleOf": 0.5}
    same(halves, [0, 0.5, -0.5, 7])
    same({"type": "integer", "exclusiveMinimum": -1, "maximum": 3}, [0, 3, -1])
    with pytest.raises(InvalidInput, match="cannot be enforced"):
        grammar_of({"type": "number", "minimum": -0.4, "exclusiveMaximum": 0, "multipleOf": 0.5})


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
    """The library is recursive, and an overflow ends the process. Threads have at least 2 MiB."""
    results: list[str | InvalidInput] = []

    def compiled() -> None:
        try:
            results.append(grammar_of(schema))
        except InvalidInput as wrong:
            results.append(wrong)

    previous = threading.stack_size(2 << 20)
    try:
        thread = threading.Thread(target=compiled)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(previous)
    assert results and len(str(results[0])) < 1 << 20


def test_rules_that_would_be_very_long_are_not_generated() -> None:
    """Each part that remains a JSON schema includes the definitions that it refers to."""
    part = {"allOf": [{"$ref": "#/$defs/all"}]}
    definitions = {"all": {"enum": [f"value{at}" for at in range(400)]}}
    schema = {"type": "array", "prefixItems": [SHIFT, *[part] * 30], "$defs": definitions}
    assert "rule0" in grammar_of(schema)
    schema["prefixItems"] = [SHIFT, *[part] * 43]
    definitions["all"]["enum"] = [f"value{at}" for at in range(2000)]
    assert "rule0" not in grammar_of(schema)


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
        json_grammar({"schema": schema}, lambda part: enforceable(part, "response_format"))


def test_negative_multiples_are_enforced_by_an_engine_that_supports_none() -> None:
    cold = closed({"degrees": {"type": "number", "maximum": 5, "multipleOf": 0.5}}, "degrees")

    def rewrite(schema: Any) -> Any:
        return enforceable(schema, "response_format")

    assert "multipleOf" in json_grammar({"schema": cold}, rewrite)
    open_ended = {"allOf": [cold]}
    with pytest.raises(InvalidInput, match="multipleOf here only with"):
        json_grammar({"schema": open_ended}, rewrite)
