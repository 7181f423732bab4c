"""Chat and completions through OpenAI's SDK, with a small real model."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest

from tests.support.models.onnx import echo_model
from tests.support.models.packaged import smollm2, text_model
from tests.support.servers.maas import Stack
from tests.support.servers.text import (
    CITY,
    STORY,
    TEXT_MODEL,
    WEATHER,
    openai_chat,
)

openai = pytest.importorskip("openai", reason="openai is not installed")


@pytest.fixture(scope="module")
def echo(served: Stack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A deployment that does not generate text."""
    path = echo_model(tmp_path_factory.mktemp("m") / "echo.onnx")
    served.client().publish(path, name="echo", example=[1.0, 2.0])
    served.client().deploy("echo")
    served.wait_ready("echo")
    return "echo"


def test_the_capital_of_france(client: Any) -> None:
    answer = openai_chat(client)
    assert "Paris" in answer.choices[0].message.content
    assert answer.model == TEXT_MODEL
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens <= 8


def test_the_plain_question(served: Stack, client: Any) -> None:
    """The first token is nearly a tie, which llama.cpp's rounding decides the other way
    (docs/howto/engines.md)."""
    pytest.importorskip("openvino_genai", reason="needs the extra openvino")
    prepared = text_model(smollm2(), "exacter", runtime="openvino")
    served.client().publish_prepared(prepared)
    served.client().deploy("exacter", max_batch=2)
    served.wait_ready("exacter")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    fields: dict[str, Any] = {"model": "exacter", "max_tokens": 10}
    first, again = (
        openai_chat(client, question, **fields).choices[0].message.content for _ in range(2)
    )
    served.client().deployments.delete("exacter")
    assert "Paris" in first and first == again


def test_a_stream_adds_up_to_the_answer(client: Any) -> None:
    whole = openai_chat(client)
    chunks = list(openai_chat(client, stream=True, stream_options={"include_usage": True}))
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
        answer = openai_chat(client, STORY, seed=seed, temperature=1.5)
        return str(answer.choices[0].message.content)

    assert text(7) == text(7)
    assert len({text(seed) for seed in (7, 8, 9)}) > 1


def test_stops_lengths_choices_and_logprobs(client: Any) -> None:
    answer = openai_chat(client, stop=["Paris"], n=2, seed=1)
    assert len(answer.choices) == 2
    for choice in answer.choices:
        assert "Paris" not in choice.message.content
        assert choice.finish_reason in ("stop", "length")
    short = openai_chat(client, STORY, max_tokens=None, max_completion_tokens=3)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 3)
    with_logprobs = openai_chat(client, STORY, logprobs=True, top_logprobs=3, max_tokens=4)
    tokens = with_logprobs.choices[0].logprobs.content
    assert len(tokens) == 4
    assert all(t.logprob <= 0 and len(t.top_logprobs) == 3 for t in tokens)
    assert "".join(t.token for t in tokens) == with_logprobs.choices[0].message.content


def object_of(properties: dict[str, Any], **keywords: Any) -> dict[str, Any]:
    """A schema of an object with exactly these properties."""
    return {"type": "object", "properties": properties, "required": list(properties),
            "additionalProperties": False, **keywords}  # fmt: skip


NAME = {"type": "string", "minLength": 1, "maxLength": 16}
SHARE = {"type": "number", "minimum": 0, "maximum": 1}
HOUSE_NUMBER = {"type": "integer", "minimum": 1, "maximum": 999}
HOME = object_of({"street": NAME, "number": HOUSE_NUMBER})
COLOR = {"enum": ["red", "green", 7, None]}
DIGITS = {
    "type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9},
    "minItems": 3, "maxItems": 3,
}  # fmt: skip
FLAGS = {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}
NODE = object_of({"name": NAME, "next": {"anyOf": [object_of({"name": NAME}), {"type": "null"}]}})
SCHEMAS: list[dict[str, Any]] = [
    CITY,
    object_of({"person": object_of({"name": NAME, "home": HOME})}),
    object_of({"color": COLOR, "kind": {"const": "paint"}, "is_dry": {"type": "boolean"}}),
    {"type": "array", "items": object_of({"word": NAME}), "minItems": 2, "maxItems": 3},
    object_of(
        {
            "share": SHARE,
            "shift": {"type": "number", "minimum": -2.5, "maximum": -0.5},
            "row": DIGITS,
        }
    ),
    object_of(
        {
            "either": {"anyOf": [NAME, {"type": "null"}, FLAGS]},
            "id": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
        }
    ),
    object_of({"tree": {"$ref": "#/$defs/node"}}, **{"$defs": {"node": NODE}}),
]


def test_json_satisfies_the_schema(client: Any, full_size: bool) -> None:
    """Although at this temperature the model alone would mostly generate something else."""

    def check(seed: int) -> None:
        schema = SCHEMAS[seed % len(SCHEMAS)]
        json_schema = {"name": "answer", "schema": schema, "strict": True}
        answer = openai_chat(
            client, [{"role": "user", "content": f"Tell me about number {seed}."}],
            response_format={"type": "json_schema", "json_schema": json_schema},
            max_tokens=200, temperature=1, seed=seed,
        )  # fmt: skip
        (choice,) = answer.choices
        assert choice.finish_reason == "stop", (seed, choice.message.content)
        jsonschema.validate(json.loads(choice.message.content), schema)

    count = 200 if full_size else len(SCHEMAS)
    with ThreadPoolExecutor(16) as pool:
        assert len(list(pool.map(check, range(count)))) == count
    answer = openai_chat(client, response_format={"type": "json_object"}, max_tokens=32)
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_tools_are_called(client: Any) -> None:
    function = {"name": "get_weather", "parameters": WEATHER}
    fields: dict[str, Any] = {
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "max_tokens": 80,
    }
    (choice,) = openai_chat(client, **fields).choices
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    jsonschema.validate(json.loads(call.function.arguments), WEATHER)
    assert choice.finish_reason == "tool_calls"
    names, arguments = [], ""
    for chunk in openai_chat(client, stream=True, **fields):
        for part in chunk.choices[0].delta.tool_calls or ():
            names += [part.function.name] if part.function.name else []
            arguments += part.function.arguments or ""
    assert names == ["get_weather"]
    jsonschema.validate(json.loads(arguments), WEATHER)
    # One of several tools, chosen by `allowed_tools`; null means the same as a missing field.
    other = {"type": "function", "function": {"name": "get_time", "parameters": CITY}}
    named = [{"type": "function", "function": {"name": "get_weather"}}]
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": named}}
    fields |= {"tools": [other, *fields["tools"]], "tool_choice": allowed, "n": None, "stop": None}
    (again,) = openai_chat(client, **fields).choices
    assert [call.function.name for call in again.message.tool_calls] == ["get_weather"]
    history = [
        *fields["messages"],
        choice.message.model_dump(),
        {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 21 degrees."},
    ]
    assert openai_chat(client, history).choices[0].message.content


def test_completions_continue_texts_and_tokens(client: Any) -> None:
    answer = client.completions.create(
        model=TEXT_MODEL,
        prompt=["Once upon a time", "Two plus two is"],
        max_tokens=6,
        temperature=0,
        echo=True,
        logprobs=None,
    )
    assert answer.choices[0].text.startswith("Once upon a time")
    assert 6 < answer.usage.completion_tokens <= 12
    streamed = client.completions.create(
        model=TEXT_MODEL, prompt="Once upon a time", max_tokens=6, temperature=0, stream=True
    )
    text = "".join(chunk.choices[0].text for chunk in streamed)
    assert "Once upon a time" + text == answer.choices[0].text
    tokens = client.completions.create(model=TEXT_MODEL, prompt=[1, 2, 3], max_tokens=2)
    assert tokens.usage.prompt_tokens in (3, 4)


def test_models_are_listed(client: Any, echo: str) -> None:
    models = client.models.list().data
    assert [model.id for model in models] == [TEXT_MODEL]
    model = client.models.retrieve(TEXT_MODEL)
    assert (model.owned_by, model.object) == ("openmaas", "model")
    assert model.created > 1_700_000_000
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(echo)


def test_errors_have_the_classes_of_the_sdk(client: Any, echo: str) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        openai_chat(client, model="nobody")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match=r"echo is for"):
        openai_chat(client, model=echo)
    with pytest.raises(openai.AuthenticationError) as unknown:
        openai_chat(client.with_options(api_key="maas_unknown"))
    assert unknown.value.code == "invalid_api_key"
    with pytest.raises(openai.BadRequestError) as invalid:
        openai_chat(client, temperature=9)
    assert (invalid.value.param, invalid.value.type) == ("temperature", "invalid_request_error")
    for fields in ({}, {"stream": True}):
        with pytest.raises(openai.BadRequestError) as long:
            openai_chat(client, [{"role": "user", "content": "word " * 20_000}], **fields)
        assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError):
        picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
        openai_chat(client, [{"role": "user", "content": [picture]}])


def test_a_full_queue_is_answered_with_429(served: Stack, client: Any) -> None:
    served.client().deploy(TEXT_MODEL, queue_limit=1)
    served.wait_ready(TEXT_MODEL)
    try:
        with openai_chat(client, temperature=1, max_tokens=200, stream=True) as busy:
            next(iter(busy))
            with pytest.raises(openai.RateLimitError) as limited:
                openai_chat(client)
            assert int(limited.value.response.headers["retry-after"]) >= 1
    finally:
        served.client().deploy(TEXT_MODEL, queue_limit=256)
        served.wait_ready(TEXT_MODEL)
