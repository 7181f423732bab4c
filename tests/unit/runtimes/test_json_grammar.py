"""What LLGuidance is given for a schema, and what it then lets a model write."""

from __future__ import annotations

from typing import Any

import llguidance
import pytest

from maas.runtimes.json_grammar import json_grammar


def allows(schema: dict[str, Any], text: str) -> bool:
    """Whether the whole of `text` can be written, and nothing needs to follow."""
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
    """Digits for ever are what a schema allows, and no answer."""
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


def test_what_the_schema_says_itself_stays() -> None:
    assert allows({"type": "integer", "minimum": 10**17}, str(10**17))
    assert allows({"enum": [10**20]}, str(10**20))
