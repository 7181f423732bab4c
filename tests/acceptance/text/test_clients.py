"""Chat through langchain, OpenAI's npm package and the SDK of OpenMaaS, with a small real model."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema
import numpy as np
import pytest

import maas
from tests.support.clients.npm import run_npm_client
from tests.support.servers.maas import Stack
from tests.support.servers.text import (
    FRANCE,
    QUESTION,
    TEXT_MODEL,
    WEATHER,
    openai_chat,
)


def test_langchain_streams_a_chain(served: Stack) -> None:
    chat_models = pytest.importorskip("langchain_openai", reason="langchain-openai is missing")
    prompts = pytest.importorskip("langchain_core.prompts")
    parsers = pytest.importorskip("langchain_core.output_parsers")
    model = chat_models.ChatOpenAI(
        base_url=f"{served.url}/v1", api_key=served.token, model=TEXT_MODEL, temperature=0,
        max_tokens=8,
    )  # fmt: skip
    question = ("user", QUESTION.replace("France", "{land}"))
    prompt = prompts.ChatPromptTemplate.from_messages([question])
    chain = prompt | model | parsers.StrOutputParser()
    pieces = list(chain.stream({"land": "France"}))
    assert len(pieces) > 1
    assert "Paris" in "".join(pieces)


def test_openai_s_npm_package(served: Stack, client: Any) -> None:
    outputs = run_npm_client(served, "chat", TEXT_MODEL)
    whole = openai_chat(client, logprobs=True, top_logprobs=2)
    (choice,) = outputs["whole"]["choices"]
    assert choice["message"]["content"] == whole.choices[0].message.content
    assert "Paris" in choice["message"]["content"]
    assert len(choice["logprobs"]["content"][0]["top_logprobs"]) == 2
    *chunks, last = outputs["chunks"]
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)
    assert text == choice["message"]["content"]
    assert last["choices"] == [] and last["usage"]["total_tokens"] == whole.usage.total_tokens
    for answer in (outputs["tools"], outputs["streamedTools"]):
        (call,) = answer["choices"][0]["message"]["tool_calls"]
        assert call["function"]["name"] == "get_weather"
        jsonschema.validate(json.loads(call["function"]["arguments"]), WEATHER)
        assert answer["choices"][0]["finish_reason"] == "tool_calls"
    jsonschema.validate(json.loads(outputs["json"]["choices"][0]["message"]["content"]), WEATHER)
    jsonschema.validate(json.loads(outputs["parsed"]), WEATHER)
    assert outputs["completion"]["object"] == "text_completion"
    assert outputs["models"] == [TEXT_MODEL]
    assert outputs["errors"] == {
        "unknownKey": ["AuthenticationError", 401, "invalid_api_key", "authentication_error"],
        "badValue": ["BadRequestError", 400, "invalid_input", "invalid_request_error"],
        "noModel": ["NotFoundError", 404, "model_not_found", "invalid_request_error"],
        "tooLong": ["BadRequestError", 400, "context_length_exceeded", "invalid_request_error"],
    }


def test_the_sdk_of_openmaas(served: Stack) -> None:
    with served.client() as client:
        answer = client.chat(TEXT_MODEL, QUESTION, temperature=0, max_tokens=8)
        assert "Paris" in answer.text
        with client.chat(TEXT_MODEL, FRANCE, stream=True, temperature=0, max_tokens=8) as stream:
            pieces = list(stream)
        assert "".join(pieces) == answer.text
        assert stream.answer == answer
        with pytest.raises(maas.NotFound):
            client.chat("nobody", "Hi")
        with pytest.raises(maas.InvalidInput):
            client.chat(TEXT_MODEL, "Hi", temperature=9)

    async def text_of_async_client() -> str:
        async with maas.AsyncClient(base_url=served.url, api_key=served.token) as client:
            whole = await client.chat(TEXT_MODEL, FRANCE, temperature=0, max_tokens=8)
            stream = await client.chat(TEXT_MODEL, FRANCE, stream=True, temperature=0, max_tokens=8)
            assert "".join([piece async for piece in stream]) == whole.text
            return whole.text

    assert asyncio.run(text_of_async_client()) == answer.text


def test_tokens_are_in_the_metrics(served: Stack, client: Any) -> None:
    answer = openai_chat(client)
    _, _, text = served.request("GET", "/metrics")
    lines = dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if line[0] != "#")
    label = f'{{deployment="{TEXT_MODEL}",version="1",variant="gguf",operation="chat"}}'
    assert int(lines[f"maas_generation_completion_tokens_total{label}"]) >= (
        answer.usage.completion_tokens
    )
    assert int(lines[f"maas_generation_time_to_first_token_seconds_count{label}"]) > 0
    assert np.isfinite(float(lines[f"maas_generation_time_per_output_token_seconds_sum{label}"]))
