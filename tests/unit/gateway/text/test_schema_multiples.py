"""Multiples in schemas: engines count up to them."""

from __future__ import annotations

from typing import Any

import pytest

from maas.domain.errors import InvalidInput
from maas.gateway.text.schema_limits import check_schema

Inner = dict[str, Any]


@pytest.mark.parametrize("step", [9999, 0.01, 1e-9, 99.99, 2.5, 10_000])
def test_usual_multiples_are_accepted(step: float) -> None:
    check_schema({"type": "number", "multipleOf": step}, "schema")


@pytest.mark.parametrize("step", [10_001, 99_999_989, 100.01, 1e-10, 1 / 3, 0, -1, "1", True, 1e15])
def test_large_or_invalid_multiples_are_refused(step: Any) -> None:
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
def test_the_least_common_multiple_of_an_intersection_is_limited(schema: Inner) -> None:
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
def test_multiples_of_different_values_are_independent(schema: Inner) -> None:
    check_schema(schema, "schema")


def test_many_different_multiples_are_refused() -> None:
    def schema(count: int) -> Inner:
        return {"properties": {f"p{n}": {"multipleOf": 10_000 - n} for n in range(count)}}

    check_schema(schema(20), "schema")
    check_schema({"properties": {f"p{n}": {"multipleOf": 9999} for n in range(400)}}, "schema")
    with pytest.raises(InvalidInput, match="too many different large multipleOf"):
        check_schema(schema(21), "schema")
