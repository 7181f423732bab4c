"""Schemas that llama.cpp's older LLGuidance does not enforce are rewritten or refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llguidance", reason="needs the extra llm")

from maas.domain.errors import InvalidInput
from maas.runtimes.formats.gguf import check_gguf
from maas.runtimes.schemas.llama_limits import TokenTexts, enforceable
from tests.support.models.tiny_gguf import byte_words, tiny_gguf
from tests.unit.runtimes.schemas.test_llguidance import allows


def inside(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """`schema` in all places where a schema can occur."""
    return [
        schema,
        {"type": "object", "properties": {"enum": schema}},
        {"anyOf": [{"type": "null"}, {"type": "array", "items": schema}]},
        {"$ref": "#/$defs/a", "$defs": {"a": schema}},
        {"type": "object", "patternProperties": {"^a": schema}},
    ]


@pytest.mark.parametrize(
    "number",
    [
        {"type": "number", "multipleOf": 0.5},
        {"type": "integer", "multipleOf": 10, "minimum": -90, "maximum": 90},
        {"type": ["integer", "null"], "multipleOf": 10, "exclusiveMinimum": -1},
        {"multipleOf": 3, "maximum": -1},
    ],
)
def test_multiples_below_0_are_refused(number: dict[str, Any]) -> None:
    """The engine supports none, and drops the grammar where no other number is allowed."""
    for schema in inside(number):
        with pytest.raises(InvalidInput, match=r"tools: .* multipleOf here only with a min") as e:
            enforceable(schema, "tools")
        assert e.value.details["field"] == "tools"


def test_other_multiples_and_lookalikes_are_unchanged() -> None:
    number = {"type": "number", "minimum": 0, "multipleOf": 0.5}
    name = {"type": "object", "properties": {"multipleOf": {"type": "string"}}}
    value = {"const": {"multipleOf": 2, "format": "uri"}}
    for schema in (*inside(number), name, value, {"type": "string", "multipleOf": 2}, True):
        assert enforceable(schema, "tools") == schema


MARKS = ["Ġ,", "Ġ's", "Ġ'Ġ", "▁,", "▁'m", " !", "xĠ?y"]
OTHERS = ["Ġa", "Ġ'", "Ġ'd", ",", "▁a", "Ġ'r"]


def test_tokens_that_lose_a_blank_are_misread(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "tiny.gguf", words=byte_words(*MARKS, *OTHERS, pre="llama-bpe"))
    summary = check_gguf(path)
    marks = tuple(range(257, 257 + len(MARKS)))
    for kind in ("gpt2", "gemma4"):
        assert TokenTexts.of(path, replace(summary, tokenizer=kind)) == TokenTexts(False, marks)
    assert TokenTexts.of(path, replace(summary, pre_tokenizer="qwen2")) == TokenTexts()
    pieces = replace(summary, tokenizer="llama", adds_space=False)
    assert TokenTexts.of(path, pieces) == TokenTexts()


RIGHT = [
    "https://example.org",
    "https://user:pw@example.org:8080/a/b%20c?q=1&r=/#top",
    "mailto:somebody@example.org",
    "urn:isbn:0451450523",
    "file:///etc/hosts",
    "http://[2001:db8:0:0:0:0:0:1]/",
    "a:",
    "tel:+1-816-555-1212",
]
WRONG = ["example.org", "//a/b", "1a:b", "http://a b", "a:b#c#d", "a:%zz", "http://é", "", "a:[b"]


def test_the_format_uri_becomes_a_pattern() -> None:
    """pydantic's `HttpUrl` generates it."""
    schema = enforceable({"type": "string", "format": "uri", "maxLength": 2083}, "")
    assert "format" not in schema and schema["maxLength"] == 2083
    for text in RIGHT:
        assert re.search(schema["pattern"], text) and allows(schema, f'"{text}"')
    for text in WRONG:
        assert not re.search(schema["pattern"], text) and not allows(schema, f'"{text}"')


def test_a_uri_with_a_pattern_of_its_own_has_both() -> None:
    original = {
        "type": "string",
        "format": "uri",
        "pattern": "^https:",
        "allOf": [{"maxLength": 24}],
    }
    schema = enforceable(original, "")
    assert allows(schema, '"https://example.org"')
    for wrong in ("http://example.org", "https: //", "https://example.org/too/long"):
        assert not allows(schema, f'"{wrong}"')
    assert original["format"] == "uri"
