"""OpenAI chat and completions, with a replica that generates scripted text."""

from __future__ import annotations

from maas.domain.generation import Generation, Piece, TokenLogprob
from tests.support.fakes.text_replica import (
    CALLS,
    CHAT,
    COMPLETIONS,
    HELLO,
    Script,
    TextGateway,
)


def test_an_answer_has_all_required_fields(text_gateway: TextGateway) -> None:
    answer = text_gateway.answer(CHAT, HELLO)
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "llm"
    assert answer["id"].startswith("chatcmpl-")
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hello there", "refusal": None}
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "stop", None)
    assert answer["usage"]["total_tokens"] == 9
    (generation,) = text_gateway.replica.generations
    assert generation == Generation(messages=[{"role": "user", "content": "Hi"}])


def test_every_field_reaches_the_engine(text_gateway: TextGateway) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    text_gateway.answer(CHAT,
        {
            "model": "llm",
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "Be"},
                                                  {"type": "text", "text": " brief"}]},
                {"role": "user", "content": "Hi", "name": "ann"},
                {"role": "assistant", "content": None, "refusal": None, "annotations": [],
                 "tool_calls": [{"id": "c", "type": "function",
                                 "function": {"name": "f", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "c", "content": "3"},
            ],
            "max_completion_tokens": 9,
            "temperature": 1,
            "top_p": 0.5,
            "seed": -3,
            "presence_penalty": 1.5,
            "frequency_penalty": -2,
            "logit_bias": {"5": -100},
            "stop": "end",
            "logprobs": True,
            "top_logprobs": 2,
            "response_format": {"type": "json_schema",
                                "json_schema": {"name": "x", "schema": {"type": "object"}}},
            "tools": [tool],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "parallel_tool_calls": False,
            "user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto",
            "stream_options": None,
        },
    )  # fmt: skip
    (generation,) = text_gateway.replica.generations
    assert generation == Generation(
        messages=[
            {"role": "system", "content": "Be brief"},
            {"role": "user", "content": "Hi", "name": "ann"},
            {"role": "assistant", "content": "", "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "content": "3", "tool_call_id": "c"},
        ],
        max_tokens=9, temperature=1.0, top_p=0.5, seed=-3, presence_penalty=1.5,
        frequency_penalty=-2.0, logit_bias={5: -100.0}, stop=["end"], logprobs=2,
        response_format={"type": "json_schema", "schema": {"type": "object"}},
        tools=[tool], tool_choice={"type": "function", "function": {"name": "f"}},
        parallel_tool_calls=False,
    )  # fmt: skip


def test_the_deltas_of_a_stream_add_up_to_the_answer(text_gateway: TextGateway) -> None:
    chunks = text_gateway.events(CHAT, HELLO)
    assert chunks.pop() == ("", "[DONE]")
    data = [chunk for _, chunk in chunks]
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in data}) == 1
    assert all("usage" not in c for c in data)
    choices = [c["choices"][0] for c in data]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert [c["delta"].get("content") for c in choices] == ["", "Hello", " there", None]
    assert [c["finish_reason"] for c in choices] == [None, None, None, "stop"]


def test_a_stream_ends_with_usage_on_request(text_gateway: TextGateway) -> None:
    chunks = text_gateway.events(CHAT, HELLO | {"stream_options": {"include_usage": True}, "n": 2})
    assert chunks.pop()[1] == "[DONE]"
    last = chunks.pop()[1]
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens"] == 7
    assert last["usage"]["completion_tokens"] == 4
    assert all(chunk["usage"] is None for _, chunk in chunks)


def test_choices_are_separate_generations_of_one_prompt(text_gateway: TextGateway) -> None:
    answer = text_gateway.answer(CHAT, HELLO | {"n": 3, "seed": 5})
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert [generation.seed for generation in text_gateway.replica.generations] == [5, 6, 7]
    assert answer["usage"]["prompt_tokens"] == 7
    assert answer["usage"]["completion_tokens"] == 6
    assert text_gateway.metered_tokens() == (7, 6)


def test_each_token_has_finite_logprobs(text_gateway: TextGateway) -> None:
    unlikely = TokenLogprob(" you", -1e9)
    text_gateway.use(Script([Piece("Hi", 1, [TokenLogprob("Hi", -0.5, [72, 105], [unlikely])])]))
    expected = {
        "token": "Hi", "logprob": -0.5, "bytes": [72, 105],
        "top_logprobs": [{"token": " you", "logprob": -9999.0, "bytes": None}],
    }  # fmt: skip
    more = {"logprobs": True, "top_logprobs": 1}
    answer = text_gateway.answer(CHAT, HELLO | more)
    assert answer["choices"][0]["logprobs"] == {"content": [expected], "refusal": None}
    chunk = text_gateway.events(CHAT, HELLO | more)[1][1]
    assert chunk["choices"][0]["logprobs"]["content"] == [expected]
    answer = text_gateway.answer(COMPLETIONS, {"model": "llm", "prompt": "Say", "logprobs": 1})
    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["Hi"], "token_logprobs": [-0.5], "top_logprobs": [{" you": -9999.0}],
        "text_offset": [0],
    }  # fmt: skip


def test_tool_calls_are_answered_whole_and_in_fragments(text_gateway: TextGateway) -> None:
    text_gateway.use(CALLS)
    tools = [{"type": "function", "function": {"name": "weather"}}]
    (choice,) = text_gateway.answer(CHAT, HELLO | {"tools": tools})["choices"]
    assert choice["finish_reason"] == "tool_calls"
    function = {"name": "weather", "arguments": '{"city": "Lisbon"}'}
    assert choice["message"]["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": function}
    ]
    chunks = [c for _, c in text_gateway.events(CHAT, HELLO | {"tools": tools})[:-1]]
    parts = [c["choices"][0]["delta"].get("tool_calls") for c in chunks]
    assert [p[0] for p in parts if p] == [
        {"index": 0, "id": "call_1", "type": "function",
         "function": {"name": "weather", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"city": '}},
        {"index": 0, "function": {"arguments": '"Lisbon"}'}},
    ]  # fmt: skip


def test_completions_continue_each_prompt(text_gateway: TextGateway) -> None:
    body = {"model": "llm", "prompt": ["One", "Two"], "n": 2, "echo": True}
    answer = text_gateway.answer(COMPLETIONS, body)
    assert answer["object"] == "text_completion"
    assert [c["text"] for c in answer["choices"]] == [
        "OneHello there", "OneHello there", "TwoHello there", "TwoHello there",
    ]  # fmt: skip
    assert answer["usage"]["prompt_tokens"] == 14
    assert [g.prompt for g in text_gateway.replica.generations] == ["One", "One", "Two", "Two"]
    assert {g.max_tokens for g in text_gateway.replica.generations} == {16}
    text_gateway.replica.generations.clear()
    text_gateway.answer(COMPLETIONS, {"model": "llm", "prompt": [1, 2, 3]})
    text_gateway.answer(COMPLETIONS, {"model": "llm", "prompt": [[1, 2], [3]]})
    assert [g.prompt for g in text_gateway.replica.generations] == [[1, 2, 3], [1, 2], [3]]
    chunks = text_gateway.events(COMPLETIONS, {"model": "llm", "prompt": "One", "echo": True})
    assert chunks.pop()[1] == "[DONE]"
    texts = [chunk["choices"][0]["text"] for _, chunk in chunks]
    assert texts == ["OneHello", " there", ""]
    assert chunks[-1][1]["choices"][0]["finish_reason"] == "stop"
