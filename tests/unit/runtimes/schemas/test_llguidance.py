"""Grammars for LLGuidance, and the texts that they allow."""

from __future__ import annotations

from typing import Any

import llguidance
import pytest

from maas.domain.errors import InvalidInput
from maas.runtimes.schemas.llguidance import AnswerFollower, json_grammar


def allows(schema: dict[str, Any], text: str) -> bool:
    """Whether `text` is a complete answer to `schema`."""
    grammar = json_grammar({"type": "json_schema", "schema": schema})
    tokens = llguidance.LLTokenizer("byte")
    matcher = llguidance.LLMatcher(tokens, grammar, log_level=0)
    ids = tokens.tokenize_str(text)
    return matcher.validate_tokens(ids) == len(ids) and (
        matcher.consume_tokens(ids) and matcher.is_accepting()
    )


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer"},
        {"type": ["integer", "null"]},
        {"anyOf": [{"type": "integer"}]},
        {"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}},
    ],
)
def test_an_integer_ends(schema: dict[str, Any]) -> None:
    """A schema alone allows digits without end."""
    assert allows(schema, "9007199254740991") and allows(schema, "-12")
    assert not allows(schema, "9007199254740992") and not allows(schema, "1" * 60)


def test_integers_within_objects_and_arrays_end_too() -> None:
    schema = {
        "type": "object",
        "properties": {"type": {"type": "array", "items": {"type": "integer"}}},
        "required": ["type"],
        "additionalProperties": False,
    }
    assert allows(schema, '{"type":[1,2]}')
    assert not allows(schema, '{"type":[' + "1" * 60 + "]}")


@pytest.mark.parametrize(
    ("schema", "right"),
    [
        ({"type": "integer", "minimum": 3}, "9007199254740991"),
        ({"type": "integer", "exclusiveMaximum": 0}, "-9007199254740991"),
        ({"type": "integer", "minimum": 10**17}, str(10**17 + 1)),
        ({"type": "integer", "maximum": -(10**17)}, str(-(10**18))),
        ({"type": "number", "minimum": 1e16}, "10000000000000001.5"),
        ({"type": "number", "minimum": 0, "maximum": 1}, "0.333333333"),
        ({"type": "number", "exclusiveMinimum": 2.5, "maximum": 1e6}, "2.75"),
        ({"type": "number", "exclusiveMinimum": -2.5, "maximum": 1e6}, "-2.25"),
        ({"type": "number", "minimum": 0}, "9007199254740990.5"),
        ({"type": "number", "maximum": -0.5}, "-9007199254740990.5"),
        ({"type": "number"}, "-6.626e-34"),
        ({"type": "number"}, "0.3333333333333333"),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "number"}},
                "required": ["a"],
                "additionalProperties": False,
            },
            '{"a":-0.5}',
        ),
        ({"type": ["number", "null"], "minimum": 0, "maximum": 1}, "null"),
    ],
)
def test_a_number_between_bounds_ends(schema: dict[str, Any], right: str) -> None:
    assert allows(schema, right)
    for begun in ("0.3", "3.3", "3", "-3", "-3.3", "1e9", '{"a":3.3'):
        assert not allows(schema, begun + "3" * 60)
        assert not allows(schema, begun + "0" * 60)


def test_bounds_that_need_more_digits_get_them() -> None:
    assert allows({"type": "number", "minimum": 1e-14, "maximum": 2e-14}, "0.000000000000015")
    assert allows({"type": "number"}, "6.626e-34")


@pytest.mark.parametrize("low", [0, 1, 10])
@pytest.mark.parametrize("width", [1e-8, 0.25, 0.75])
def test_an_exclusive_bound_is_excluded(low: int, width: float) -> None:
    """The library itself allows whole ones."""
    above = {"exclusiveMinimum": low, "maximum": low + width}
    below = {"minimum": -low - width, "exclusiveMaximum": -low}
    within = f"{low + width / 2:.9f}".rstrip("0")
    for side, sign in ((above, ""), (below, "-")):
        number = {"type": "number"} | side
        assert allows(number, sign + within) and not allows(number, f"{sign}{low}")
        inside = {"type": "object", "properties": {"a": number}}
        assert allows(inside, f'{{"a":{sign}{within}}}')
        assert not allows(inside, f'{{"a":{sign}{low}}}')


FREE = {"type": "object", "properties": {"a": {}}, "minProperties": 2}


@pytest.mark.parametrize(
    "schema",
    [FREE, {"anyOf": [FREE]}, {"properties": {"a": FREE}}, FREE | {"required": ["a", "a"]}],
)
def test_properties_that_may_occur_twice_cannot_be_counted(schema: dict[str, Any]) -> None:
    """`{"b": 1, "b": 2}` has one property."""
    with pytest.raises(InvalidInput, match="cannot be enforced: minProperties is more"):
        json_grammar({"type": "json_schema", "schema": schema})


def test_properties_that_cannot_occur_twice_are_counted() -> None:
    assert allows(FREE | {"required": ["a", "b"], "minProperties": 2}, '{"a":1,"b":2}')
    assert not allows({"type": "object", "minProperties": 1}, "{}")
    assert allows({"const": {"minProperties": 7}}, '{"minProperties":7}')


@pytest.mark.parametrize("cuts", [(1, 4), (2, 3, 9), ()])
def test_an_answer_in_pieces_of_any_size_is_followed(cuts: tuple[int, ...]) -> None:
    schema = {"type": "string", "maxLength": 8}
    follower = AnswerFollower(json_grammar({"type": "json_schema", "schema": schema}))
    text = r'"né\n\\wort"'
    for start, end in zip((0, *cuts), (*cuts, len(text)), strict=True):
        assert not follower.is_complete
        assert follower.take(text[start:end])
    assert follower.is_complete and not follower.take(" ")


def test_an_answer_that_violates_its_grammar_stays_invalid() -> None:
    follower = AnswerFollower(json_grammar({"type": "json_schema", "schema": {"type": "boolean"}}))
    assert follower.take("tr") and not follower.take("y")
    assert not follower.take("ue") and not follower.is_complete


@pytest.mark.parametrize("format_", ["password", "binary"])
def test_formats_without_a_meaning_for_validity_are_removed(format_: str) -> None:
    inside = {"properties": {"a": {"type": "string", "format": format_, "maxLength": 3}}}
    assert allows(inside, '{"a":"x y"}') and not allows(inside, '{"a":"wxyz"}')


def test_bounds_and_multiples_of_the_schema_are_unchanged() -> None:
    assert allows({"type": "number", "minimum": 0, "maximum": 9, "multipleOf": 0.5}, "1.5")
    assert not allows({"type": "number", "minimum": 0, "maximum": 9, "multipleOf": 0.5}, "1.7")
    assert allows({"type": "integer", "minimum": 10**17}, str(10**17))
    assert allows({"enum": [10**20]}, str(10**20))
