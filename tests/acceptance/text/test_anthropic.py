"""Messages through Anthropic's SDK, with a small real model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from tests.support.servers.maas import Stack
from tests.support.servers.text import (
    FRANCE,
    TEXT_MODEL,
    WEATHER,
)

anthropic = pytest.importorskip("anthropic", reason="anthropic is not installed")


@pytest.fixture
def claude(served: Stack) -> Iterator[Any]:
    """Anthropic's SDK."""
    with anthropic.Anthropic(base_url=served.url, api_key=served.token, max_retries=0) as sdk:
        yield sdk


GREEDY = {"extra_body": {"temperature": 0}}
"""The protocol has the field, but newer versions of the SDK have no argument for it."""


def message(claude: Any, messages: Any = FRANCE, **fields: Any) -> Any:
    return claude.messages.create(
        **{"model": TEXT_MODEL, "messages": messages, "max_tokens": 8} | GREEDY | fields
    )


def test_a_message_is_answered(claude: Any) -> None:
    answer = message(claude, system="You answer in one word.")
    assert answer.content[0].type == "text"
    assert answer.stop_reason in ("end_turn", "max_tokens")
    assert "Paris" in message(claude).content[0].text
    counted = claude.messages.count_tokens(model=TEXT_MODEL, messages=FRANCE)
    assert counted.input_tokens == message(claude).usage.input_tokens


def test_a_message_is_streamed(claude: Any) -> None:
    whole = message(claude)
    fields: dict[str, Any] = {"model": TEXT_MODEL, "messages": FRANCE, "max_tokens": 8} | GREEDY
    with claude.messages.stream(**fields) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert final.usage.input_tokens == whole.usage.input_tokens
    assert final.stop_reason == whole.stop_reason


def test_the_stop_sequence_that_ended_a_message_is_named(claude: Any) -> None:
    fields: dict[str, Any] = {"messages": FRANCE, "max_tokens": 16, "stop_sequences": ["zz", "Par"]}
    whole = message(claude, **fields)
    assert (whole.stop_reason, whole.stop_sequence) == ("stop_sequence", "Par")
    with claude.messages.stream(model=TEXT_MODEL, **fields, **GREEDY) as stream:
        final = stream.get_final_message()
    assert (final.stop_reason, final.stop_sequence) == ("stop_sequence", "Par")
    assert final.content[0].text == whole.content[0].text
    assert "Par" not in whole.content[0].text
    own = message(claude, max_tokens=32, stop_sequences=["zz"])
    assert (own.stop_reason, own.stop_sequence) == ("end_turn", None)


def test_tools_are_called(claude: Any) -> None:
    tool = {"name": "get_weather", "description": "Weather of a city", "input_schema": WEATHER}
    fields: dict[str, Any] = {
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [tool],
        "tool_choice": {"type": "tool", "name": "get_weather"},
        "max_tokens": 120,
    }
    answer = message(claude, **fields)
    assert answer.stop_reason == "tool_use"
    use = answer.content[-1]
    jsonschema.validate(use.input, WEATHER)
    with claude.messages.stream(model=TEXT_MODEL, **fields, **GREEDY) as stream:
        assert stream.get_final_message().content[-1].input == use.input
    history = [
        *fields["messages"],
        {"role": "assistant", "content": [block.model_dump() for block in answer.content]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": use.id, "content": "Sunny, 21 degrees."}]},
    ]  # fmt: skip
    assert message(claude, history).content


def test_errors_have_the_classes_of_the_sdk(claude: Any) -> None:
    with pytest.raises(anthropic.NotFoundError):
        message(claude, model="nobody")
    with pytest.raises(anthropic.AuthenticationError):
        message(claude.with_options(api_key="maas_unknown"))
    with pytest.raises(anthropic.BadRequestError):
        message(claude, max_tokens=0)
    with pytest.raises(anthropic.BadRequestError, match="thinking"):
        message(claude, thinking={"type": "enabled", "budget_tokens": 1024})
    with pytest.raises(anthropic.BadRequestError):
        message(claude, [{"role": "user", "content": "word " * 20_000}])
