"""The Anthropic Messages protocol, with a replica that generates scripted text."""

from __future__ import annotations

from tests.support.fakes.text_replica import (
    CALLS,
    HELLO,
    MESSAGE,
    MESSAGES,
    TextGateway,
    words,
)


def test_a_message_is_generated(text_gateway: TextGateway) -> None:
    text_gateway.use(words("Hello", " there", stop="\n", prompt_tokens=11))
    answer = text_gateway.answer(
        MESSAGES, MESSAGE | {"system": "Be kind", "stop_sequences": ["\n"]}
    )
    assert answer["type"] == "message"
    assert answer["content"] == [{"type": "text", "text": "Hello there"}]
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "\n")
    assert answer["usage"]["input_tokens"] == 11
    assert answer["usage"]["output_tokens"] == 2
    (generation,) = text_gateway.replica.generations
    assert generation.stop == ["\n"]
    assert generation.messages is not None
    assert generation.messages[0] == {"role": "system", "content": "Be kind"}


def test_blocks_are_converted_to_messages_and_back(text_gateway: TextGateway) -> None:
    text_gateway.use(CALLS)
    tool = {"name": "weather", "description": "d", "input_schema": {"type": "object"}}
    answer = text_gateway.answer(MESSAGES,
        {
            "model": "llm",
            "max_tokens": 5,
            "system": [{"type": "text", "text": "Be", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                {"role": "assistant", "content": [
                    {"type": "text", "text": "Wait"},
                    {"type": "tool_use", "id": "t1", "name": "weather", "input": {"a": 1}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "is_error": True,
                     "content": [{"type": "text", "text": "no"}]},
                    {"type": "text", "text": "So?"}]},
            ],
            "tools": [tool],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        },
    )  # fmt: skip
    assert answer["stop_reason"] == "tool_use"
    assert answer["content"][1] == {
        "type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Lisbon"},
    }  # fmt: skip
    (generation,) = text_gateway.replica.generations
    assert generation.messages == [
        {"role": "system", "content": "Be"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Wait", "tool_calls": [
            {"id": "t1", "type": "function",
             "function": {"name": "weather", "arguments": '{"a": 1}'}}]},
        {"role": "tool", "tool_call_id": "t1", "content": "Error: no"},
        {"role": "user", "content": "So?"},
    ]  # fmt: skip
    assert generation.tool_choice == "required"
    assert generation.parallel_tool_calls is False
    assert generation.tools[0]["function"]["parameters"] == {"type": "object"}


def test_a_message_is_streamed_block_by_block(text_gateway: TextGateway) -> None:
    text_gateway.use(CALLS)
    events = text_gateway.events(MESSAGES, MESSAGE)
    assert [name for name, _ in events] == [
        "message_start", "ping",
        "content_block_start", "content_block_delta", "content_block_stop",
        "content_block_start", "content_block_delta", "content_block_delta", "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    assert all(data["type"] == name for name, data in events)
    assert [d["index"] for n, d in events if n.startswith("content_block")] == [0] * 3 + [1] * 4
    assert events[6][1]["delta"] == {"type": "input_json_delta", "partial_json": '{"city": '}
    last = events[-2][1]
    assert last["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert last["usage"]["output_tokens"] == 7


def test_counting_tokens_generates_and_meters_nothing(text_gateway: TextGateway) -> None:
    assert text_gateway.answer(f"{MESSAGES}/count_tokens", HELLO) == {"input_tokens": 7}
    (generation,) = text_gateway.replica.generations
    assert generation.max_tokens == 0
    assert text_gateway.metered_tokens() == (0, 0)
