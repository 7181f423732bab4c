"""Requests to llama.cpp's server, and refusals of schemas that it would not enforce."""

from __future__ import annotations

import pytest

from maas.domain.errors import InvalidInput
from maas.domain.generation import Generation

pytest.importorskip("llguidance", reason="needs the extra llm")

from maas.runtimes.llama_cpp.request import request_body


def generation(pattern: str, **more: object) -> Generation:
    schema = {"type": "object", "properties": {"q": {"type": "string", "pattern": pattern}}}
    chat = [{"role": "user", "content": "Hi"}]
    if "tool_choice" in more:
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        return Generation(chat, tools=[tool], tool_choice="required")
    return Generation(chat, response_format={"type": "json_schema", "schema": schema})


@pytest.mark.parametrize(
    "pattern",
    [r"^\\[a-z]{3}$", r"^C:\\(abc|def)$", r"^\n[a-z]$", '^"[a-z]{3}"$', r"^[\\][a-z]$", r"\x5cA"],
)
def test_a_pattern_with_characters_that_json_escapes_is_refused(pattern: str) -> None:
    """The engine ends the text after such a character, whatever follows."""
    with pytest.raises(InvalidInput, match=r"response_format: .* does not enforce pattern"):
        request_body(generation(pattern))
    with pytest.raises(InvalidInput, match=r"tools: .* does not enforce pattern"):
        request_body(generation(pattern, tool_choice="required"))


@pytest.mark.parametrize("pattern", [r"^\d{3}-\w+$", r"^[^@]+@[a-z]+\.[a-z]{2,}$"])
def test_other_patterns_are_requested(pattern: str) -> None:
    assert "grammar" in request_body(generation(pattern))
    assert "tools" in request_body(generation(pattern, tool_choice="required"))


def test_too_many_array_items_are_refused() -> None:
    def with_arrays(count: int) -> Generation:
        array = {"type": "array", "items": {"type": "null"}, "minItems": 1000, "maxItems": 2000}
        schema = {"type": "object", "properties": {f"p{at}": array for at in range(count)}}
        return Generation(prompt="a", response_format={"type": "json_schema", "schema": schema})

    request_body(with_arrays(20))
    with pytest.raises(InvalidInput, match="at most 40000 items in total; these may have 42000"):
        request_body(with_arrays(21))


def test_too_many_optional_properties_are_refused() -> None:
    def with_properties(count: int, *required: str) -> Generation:
        names = {f"p{at}": {"type": "null"} for at in range(count)}
        schema = {"items": {"type": "object", "properties": names, "required": [*required]}}
        return Generation(prompt="a", response_format={"type": "json_schema", "schema": schema})

    request_body(with_properties(300))
    request_body(with_properties(301, "p7"))
    with pytest.raises(InvalidInput, match="300 optional properties; one has 301"):
        request_body(with_properties(301, "q"))
