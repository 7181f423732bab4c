"""Chat through clients that others wrote: openai, anthropic, langchain, with a real small model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import maas
from tests.support.clients.npm import asked_by_npm
from tests.support.models.onnx import echo_model
from tests.support.models.packaged import smollm2, text_model
from tests.support.servers.maas import Stack, running
from tests.support.servers.text import WRITER, deploy_writer

openai = pytest.importorskip("openai", reason="openai is not installed")
anthropic = pytest.importorskip("anthropic", reason="anthropic is not installed")

QUESTION = "What is the capital of France? Answer with one word."
"""Asked without the last words, these weights waver."""
FRANCE = [{"role": "user", "content": QUESTION}]
STORY = [{"role": "user", "content": "Tell me a story."}]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "object", "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"], "additionalProperties": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home: Path = tmp_path_factory.mktemp("h")
    with running(home) as stack:
        deploy_writer(stack)
        client = stack.client()
        client.publish(echo_model(home / "echo.onnx"), name="echo", example=[1.0, 2.0])
        client.deploy("echo")
        stack.wait_ready("echo")
        yield stack


@pytest.fixture
def client(served: Stack) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=served.token, max_retries=0) as made:
        yield made


@pytest.fixture
def claude(served: Stack) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=served.url, api_key=served.token, max_retries=0) as made:
        yield made


def chat(client: Any, messages: Any = FRANCE, **more: Any) -> Any:
    return client.chat.completions.create(
        **{"model": WRITER, "messages": messages, "temperature": 0, "max_tokens": 8} | more
    )


def test_the_capital_of_france(client: Any) -> None:
    answer = chat(client)
    assert "Paris" in answer.choices[0].message.content
    assert answer.model == WRITER
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens <= 8


def test_the_plain_question(served: Stack, client: Any) -> None:
    """Its first token is nearly a tie, which llama.cpp's rounding decides the other way
    (docs/howto/engines.md)."""
    pytest.importorskip("openvino_genai", reason="needs the extra openvino")
    prepared = text_model(smollm2(), "exacter", runtime="openvino")
    served.client().publish_prepared(prepared)
    served.client().deploy("exacter", max_batch=2)
    served.wait_ready("exacter")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    asked: dict[str, Any] = {"model": "exacter", "max_tokens": 10}
    first, again = (chat(client, question, **asked).choices[0].message.content for _ in range(2))
    served.client().deployments.delete("exacter")
    assert "Paris" in first and first == again


def test_a_stream_adds_up_to_the_answer(client: Any) -> None:
    whole = chat(client)
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    last = chunks.pop()
    assert last.choices == []
    assert last.usage == whole.usage or last.usage.total_tokens == whole.usage.total_tokens
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].choices[0].delta.content == ""
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert len({(c.id, c.created, c.model) for c in chunks}) == 1


def test_the_same_seed_gives_the_same_text(client: Any) -> None:
    def text(seed: int) -> str:
        answer = chat(client, STORY, seed=seed, temperature=1.5)
        return str(answer.choices[0].message.content)

    assert text(7) == text(7)
    assert len({text(seed) for seed in (7, 8, 9)}) > 1


def test_stops_lengths_choices_and_biases(client: Any) -> None:
    answer = chat(client, stop=["Paris"], n=2, seed=1)
    assert len(answer.choices) == 2
    for choice in answer.choices:
        assert "Paris" not in choice.message.content
        assert choice.finish_reason in ("stop", "length")
    short = chat(client, STORY, max_tokens=None, max_completion_tokens=3)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 3)
    with_logprobs = chat(client, STORY, logprobs=True, top_logprobs=3, max_tokens=4)
    tokens = with_logprobs.choices[0].logprobs.content
    assert len(tokens) == 4
    assert all(t.logprob <= 0 and len(t.top_logprobs) == 3 for t in tokens)
    assert "".join(t.token for t in tokens) == with_logprobs.choices[0].message.content


def of(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An object with just these."""
    return {"type": "object", "properties": properties, "required": list(properties),
            "additionalProperties": False, **more}  # fmt: skip


NAME = {"type": "string", "minLength": 1, "maxLength": 16}
SHARE = {"type": "number", "minimum": 0, "maximum": 1}
SCHEMAS: list[dict[str, Any]] = [
    CITY,
    of({"person": of({"name": NAME, "home": of({"street": NAME, "number": {"type": "integer",
        "minimum": 1, "maximum": 999}})})}),
    of({"color": {"enum": ["red", "green", 7, None]}, "kind": {"const": "paint"},
        "is_dry": {"type": "boolean"}}),
    {"type": "array", "items": of({"word": NAME}), "minItems": 2, "maxItems": 3},
    of({"share": SHARE, "shift": {"type": "number", "minimum": -2.5, "maximum": -0.5},
        "row": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9},
                "minItems": 3, "maxItems": 3}}),
    of({"either": {"anyOf": [NAME, {"type": "null"}, {"type": "array", "items": {"type": "boolean"},
        "maxItems": 2}]}, "id": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}}),
    of({"tree": {"$ref": "#/$defs/node"}}, **{"$defs": {"node": of({"name": NAME, "next": {
        "anyOf": [of({"name": NAME}), {"type": "null"}]}})}}),
]  # fmt: skip


def test_json_is_what_the_schema_says(client: Any, full_size: bool) -> None:
    """Also where the model would rather write something else, as it mostly would at this heat."""

    def validated(seed: int) -> None:
        wanted = SCHEMAS[seed % len(SCHEMAS)]
        schema = {"name": "wanted", "schema": wanted, "strict": True}
        answer = chat(
            client, [{"role": "user", "content": f"Tell me about number {seed}."}],
            response_format={"type": "json_schema", "json_schema": schema},
            max_tokens=200, temperature=1, seed=seed,
        )  # fmt: skip
        (choice,) = answer.choices
        assert choice.finish_reason == "stop", (seed, choice.message.content)
        jsonschema.validate(json.loads(choice.message.content), wanted)

    count = 200 if full_size else len(SCHEMAS)
    with ThreadPoolExecutor(16) as pool:
        assert len(list(pool.map(validated, range(count)))) == count
    answer = chat(client, response_format={"type": "json_object"}, max_tokens=32)
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_tools_are_called(client: Any) -> None:
    function = {"name": "get_weather", "parameters": WEATHER}
    asked: dict[str, Any] = {
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "max_tokens": 80,
    }
    (choice,) = chat(client, **asked).choices
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    jsonschema.validate(json.loads(call.function.arguments), WEATHER)
    assert choice.finish_reason == "tool_calls"
    names, arguments = [], ""
    for chunk in chat(client, stream=True, **asked):
        for part in chunk.choices[0].delta.tool_calls or ():
            names += [part.function.name] if part.function.name else []
            arguments += part.function.arguments or ""
    assert names == ["get_weather"]
    jsonschema.validate(json.loads(arguments), WEATHER)
    # One of several tools, as `allowed_tools` says it, and what is null says nothing.
    other = {"type": "function", "function": {"name": "get_time", "parameters": CITY}}
    named = [{"type": "function", "function": {"name": "get_weather"}}]
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": named}}
    asked |= {"tools": [other, *asked["tools"]], "tool_choice": allowed, "n": None, "stop": None}
    (again,) = chat(client, **asked).choices
    assert [call.function.name for call in again.message.tool_calls] == ["get_weather"]
    history = [
        *asked["messages"],
        choice.message.model_dump(),
        {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 21 degrees."},
    ]
    assert chat(client, history).choices[0].message.content


def test_completions_continue_texts_and_tokens(client: Any) -> None:
    answer = client.completions.create(
        model=WRITER, prompt=["Once upon a time", "Two plus two is"], max_tokens=6, temperature=0,
        echo=True, logprobs=None,
    )  # fmt: skip
    assert answer.choices[0].text.startswith("Once upon a time")
    assert 6 < answer.usage.completion_tokens <= 12
    streamed = client.completions.create(
        model=WRITER, prompt="Once upon a time", max_tokens=6, temperature=0, stream=True
    )
    text = "".join(chunk.choices[0].text for chunk in streamed)
    assert "Once upon a time" + text == answer.choices[0].text
    tokens = client.completions.create(model=WRITER, prompt=[1, 2, 3], max_tokens=2)
    assert tokens.usage.prompt_tokens in (3, 4)


def test_models_are_listed(client: Any, served: Stack) -> None:
    models = client.models.list().data
    assert [model.id for model in models] == [WRITER]
    model = client.models.retrieve(WRITER)
    assert (model.owned_by, model.object) == ("openmaas", "model")
    assert model.created > 1_700_000_000
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("echo")


def test_errors_have_the_classes_of_the_sdk(client: Any, served: Stack) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        chat(client, model="nobody")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match=r"echo is for"):
        chat(client, model="echo")
    with pytest.raises(openai.AuthenticationError) as unknown:
        chat(client.with_options(api_key="maas_no_such"))
    assert unknown.value.code == "invalid_api_key"
    with pytest.raises(openai.BadRequestError) as wrong:
        chat(client, temperature=9)
    assert (wrong.value.param, wrong.value.type) == ("temperature", "invalid_request_error")
    for more in ({}, {"stream": True}):
        with pytest.raises(openai.BadRequestError) as long:
            chat(client, [{"role": "user", "content": "word " * 20_000}], **more)
        assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError):
        picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
        chat(client, [{"role": "user", "content": [picture]}])


def test_the_queue_is_bounded_and_says_429(served: Stack, client: Any) -> None:
    served.client().deploy(WRITER, queue_limit=1)
    served.wait_ready(WRITER)
    try:
        with chat(client, temperature=1, max_tokens=200, stream=True) as busy:
            next(iter(busy))
            with pytest.raises(openai.RateLimitError) as limited:
                chat(client)
            assert int(limited.value.response.headers["retry-after"]) >= 1
    finally:
        served.client().deploy(WRITER, queue_limit=256)
        served.wait_ready(WRITER)


# -- Anthropic --------------------------------------------------------------------------------

GREEDY = {"extra_body": {"temperature": 0}}
"""The protocol has the field; newer versions of the SDK have no argument for it."""


def message(claude: Any, messages: Any = FRANCE, **more: Any) -> Any:
    return claude.messages.create(
        **{"model": WRITER, "messages": messages, "max_tokens": 8} | GREEDY | more
    )


def test_a_message(claude: Any) -> None:
    answer = message(claude, system="You answer in one word.")
    assert answer.content[0].type == "text"
    assert answer.stop_reason in ("end_turn", "max_tokens")
    assert "Paris" in message(claude).content[0].text
    counted = claude.messages.count_tokens(model=WRITER, messages=FRANCE)
    assert counted.input_tokens == message(claude).usage.input_tokens


def test_a_message_is_streamed(claude: Any) -> None:
    whole = message(claude)
    asked: dict[str, Any] = {"model": WRITER, "messages": FRANCE, "max_tokens": 8} | GREEDY
    with claude.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert final.usage.input_tokens == whole.usage.input_tokens
    assert final.stop_reason == whole.stop_reason


def test_a_message_says_which_stop_sequence_ended_it(claude: Any) -> None:
    asked: dict[str, Any] = {"messages": FRANCE, "max_tokens": 16, "stop_sequences": ["zz", "Par"]}
    whole = message(claude, **asked)
    assert (whole.stop_reason, whole.stop_sequence) == ("stop_sequence", "Par")
    with claude.messages.stream(model=WRITER, **asked, **GREEDY) as stream:
        final = stream.get_final_message()
    assert (final.stop_reason, final.stop_sequence) == ("stop_sequence", "Par")
    assert final.content[0].text == whole.content[0].text
    assert "Par" not in whole.content[0].text
    own = message(claude, max_tokens=32, stop_sequences=["zz"])
    assert (own.stop_reason, own.stop_sequence) == ("end_turn", None)


def test_tools_of_messages(claude: Any) -> None:
    tool = {"name": "get_weather", "description": "Weather of a city", "input_schema": WEATHER}
    asked: dict[str, Any] = {
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [tool],
        "tool_choice": {"type": "tool", "name": "get_weather"},
        "max_tokens": 120,
    }
    answer = message(claude, **asked)
    assert answer.stop_reason == "tool_use"
    use = answer.content[-1]
    jsonschema.validate(use.input, WEATHER)
    with claude.messages.stream(model=WRITER, **asked, **GREEDY) as stream:
        assert stream.get_final_message().content[-1].input == use.input
    history = [
        *asked["messages"],
        {"role": "assistant", "content": [block.model_dump() for block in answer.content]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": use.id, "content": "Sunny, 21 degrees."}]},
    ]  # fmt: skip
    assert message(claude, history).content


def test_errors_of_messages(claude: Any) -> None:
    with pytest.raises(anthropic.NotFoundError):
        message(claude, model="nobody")
    with pytest.raises(anthropic.AuthenticationError):
        message(claude.with_options(api_key="maas_no_such"))
    with pytest.raises(anthropic.BadRequestError):
        message(claude, max_tokens=0)
    with pytest.raises(anthropic.BadRequestError, match="thinking"):
        message(claude, thinking={"type": "enabled", "budget_tokens": 1024})
    with pytest.raises(anthropic.BadRequestError):
        message(claude, [{"role": "user", "content": "word " * 20_000}])


# -- others -----------------------------------------------------------------------------------


def test_langchain_streams_a_chain(served: Stack) -> None:
    chat_models = pytest.importorskip("langchain_openai", reason="langchain-openai is missing")
    prompts = pytest.importorskip("langchain_core.prompts")
    parsers = pytest.importorskip("langchain_core.output_parsers")
    model = chat_models.ChatOpenAI(
        base_url=f"{served.url}/v1", api_key=served.token, model=WRITER, temperature=0,
        max_tokens=8,
    )  # fmt: skip
    question = ("user", QUESTION.replace("France", "{land}"))
    prompt = prompts.ChatPromptTemplate.from_messages([question])
    chain = prompt | model | parsers.StrOutputParser()
    pieces = list(chain.stream({"land": "France"}))
    assert len(pieces) > 1
    assert "Paris" in "".join(pieces)


def test_the_npm_package(served: Stack, client: Any) -> None:
    said = asked_by_npm(served, "chat", WRITER)
    whole = chat(client, logprobs=True, top_logprobs=2)
    (choice,) = said["whole"]["choices"]
    assert choice["message"]["content"] == whole.choices[0].message.content
    assert "Paris" in choice["message"]["content"]
    assert len(choice["logprobs"]["content"][0]["top_logprobs"]) == 2
    *chunks, last = said["chunks"]
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)
    assert text == choice["message"]["content"]
    assert last["choices"] == [] and last["usage"]["total_tokens"] == whole.usage.total_tokens
    for answer in (said["tools"], said["streamedTools"]):
        (call,) = answer["choices"][0]["message"]["tool_calls"]
        assert call["function"]["name"] == "get_weather"
        jsonschema.validate(json.loads(call["function"]["arguments"]), WEATHER)
        assert answer["choices"][0]["finish_reason"] == "tool_calls"
    jsonschema.validate(json.loads(said["json"]["choices"][0]["message"]["content"]), WEATHER)
    jsonschema.validate(json.loads(said["parsed"]), WEATHER)
    assert said["completion"]["object"] == "text_completion"
    assert said["models"] == [WRITER]
    assert said["errors"] == {
        "unknownKey": ["AuthenticationError", 401, "invalid_api_key", "authentication_error"],
        "badValue": ["BadRequestError", 400, "invalid_input", "invalid_request_error"],
        "noModel": ["NotFoundError", 404, "model_not_found", "invalid_request_error"],
        "tooLong": ["BadRequestError", 400, "context_length_exceeded", "invalid_request_error"],
    }


def test_our_own_sdk(served: Stack) -> None:
    with served.client() as client:
        answer = client.chat(WRITER, QUESTION, temperature=0, max_tokens=8)
        assert "Paris" in answer.text
        with client.chat(WRITER, FRANCE, stream=True, temperature=0, max_tokens=8) as stream:
            pieces = list(stream)
        assert "".join(pieces) == answer.text
        assert stream.answer == answer
        with pytest.raises(maas.NotFound):
            client.chat("nobody", "Hi")
        with pytest.raises(maas.InvalidInput):
            client.chat(WRITER, "Hi", temperature=9)

    async def awaited() -> str:
        async with maas.AsyncClient(base_url=served.url, api_key=served.token) as client:
            whole = await client.chat(WRITER, FRANCE, temperature=0, max_tokens=8)
            stream = await client.chat(WRITER, FRANCE, stream=True, temperature=0, max_tokens=8)
            assert "".join([piece async for piece in stream]) == whole.text
            return whole.text

    assert asyncio.run(awaited()) == answer.text


def test_usage_and_metrics_have_the_tokens(served: Stack, client: Any) -> None:
    answer = chat(client)
    _, _, text = served.request("GET", "/metrics")
    lines = dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if line[0] != "#")
    label = f'{{deployment="{WRITER}",version="1",variant="gguf",operation="chat"}}'
    assert int(lines[f"maas_generation_completion_tokens_total{label}"]) >= (
        answer.usage.completion_tokens
    )
    assert int(lines[f"maas_generation_time_to_first_token_seconds_count{label}"]) > 0
    assert np.isfinite(float(lines[f"maas_generation_time_per_output_token_seconds_sum{label}"]))
