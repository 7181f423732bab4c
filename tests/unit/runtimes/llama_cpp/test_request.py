"""What llama.cpp's server is asked, and what is refused because it would not hold it."""

from __future__ import annotations

import pytest

from maas.domain.errors import InvalidInput
from maas.domain.generation import Generation

pytest.importorskip("llguidance", reason="needs the extra llm")

from maas.runtimes.llama_cpp.request import request_body


def asked(pattern: str, **more: object) -> Generation:
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
def test_a_pattern_with_what_json_escapes_is_refused(pattern: str) -> None:
    """The engine ended the text behind such a character, whatever was to follow."""
    with pytest.raises(InvalidInput, match=r"response_format: .* does not hold pattern"):
        request_body(asked(pattern))
    with pytest.raises(InvalidInput, match=r"tools: .* does not hold pattern"):
        request_body(asked(pattern, tool_choice="required"))


@pytest.mark.parametrize("pattern", [r"^\d{3}-\w+$", r"^[^@]+@[a-z]+\.[a-z]{2,}$"])
def test_other_patterns_are_asked_for(pattern: str) -> None:
    assert "grammar" in request_body(asked(pattern))
    assert "tools" in request_body(asked(pattern, tool_choice="required"))


def test_more_items_than_the_engine_has_room_for_are_refused() -> None:
    def asked_for(count: int) -> Generation:
        array = {"type": "array", "items": {"type": "null"}, "minItems": 1000, "maxItems": 2000}
        schema = {"type": "object", "properties": {f"p{at}": array for at in range(count)}}
        return Generation(prompt="a", response_format={"type": "json_schema", "schema": schema})

    request_body(asked_for(20))
    with pytest.raises(InvalidInput, match="at most 40000 items together; these may have 42000"):
        request_body(asked_for(21))


def test_more_properties_than_the_engine_can_choose_from_are_refused() -> None:
    def asked_for(count: int, *required: str) -> Generation:
        names = {f"p{at}": {"type": "null"} for at in range(count)}
        schema = {"items": {"type": "object", "properties": names, "required": [*required]}}
        return Generation(prompt="a", response_format={"type": "json_schema", "schema": schema})

    request_body(asked_for(300))
    request_body(asked_for(301, "p7"))
    with pytest.raises(InvalidInput, match="300 properties that may be left out; one has 301"):
        request_body(asked_for(301, "q"))
