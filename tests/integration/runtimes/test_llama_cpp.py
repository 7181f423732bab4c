"""What llama.cpp can besides what every engine must, with real weights: SmolLM2-135M-Instruct."""

from __future__ import annotations

import json
import multiprocessing
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest

from maas.domain.errors import InferenceFailed, InvalidInput, Unavailable
from maas.domain.generation import Generation
from maas.runtimes.base import LoadRequest
from tests.support.engine_contract import Answer, chat, written
from tests.support.fakes.generations import TEXT_TO_TEXT
from tests.support.models.packaged import smollm2
from tests.support.models.tiny_gguf import Words, byte_words, sentence_words, tiny_gguf

pytest.importorskip("xllamacpp", reason="needs the extra llm")

from maas.runtimes.llama_cpp import request as llama_request
from maas.runtimes.llama_cpp.engine import LlamaCpp

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


def test_a_json_object_is_one(model: LlamaCpp) -> None:
    wanted = {"type": "json_object"}
    question = chat("A person as JSON.", temperature=0, max_tokens=300, response_format=wanted)
    text, ending = written(model, question)
    assert text.lstrip().startswith("{")
    if ending.reason == "stop":
        assert isinstance(json.loads(text), dict)


ENDS = (0, 2)
"""Tokens that end a text."""
NEVER = {"allOf": [{"type": "number", "multipleOf": 0.5, "maximum": -1}]}
"""Which the engine's own LLGuidance finds no text for, where ours does."""


@pytest.mark.parametrize("schema", [NEVER, {"type": "array", "prefixItems": [{"const": 1}, NEVER],
                                            "minItems": 2}])  # fmt: skip
@pytest.mark.parametrize("kind", ["response_format", "tools"])
def test_an_answer_that_left_its_schema_is_an_error(
    model: LlamaCpp, monkeypatch: pytest.MonkeyPatch, schema: dict[str, Any], kind: str
) -> None:
    monkeypatch.setattr(llama_request, "enforceable", lambda schema, field: schema)
    asked: dict[str, Any] = {"response_format": {"type": "json_schema", "schema": schema}}
    if kind == "tools":
        parameters = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
        function = {"name": "f", "parameters": parameters}
        asked = {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
    answer = Answer(model, chat("Sing.", temperature=0, max_tokens=60, **asked))
    with pytest.raises(InferenceFailed, match="left the requested format"):
        answer.end()
    assert answer.tokens < 40
    said = answer.text + "".join(c.arguments for p in answer.pieces for c in p.tool_calls)
    assert "Sing" not in said and len(said) < 40
    with pytest.raises(InferenceFailed, match="left the requested format"):
        written(model, replace(answer.generation, logit_bias=dict.fromkeys(ENDS, 100.0)))
    assert written(model, chat("Hi", max_tokens=2))[1].completion_tokens == 2


AGES = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99},
        "minItems": 2, "maxItems": 4}  # fmt: skip
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9}, "kind": {"enum": ["ab", "c d"]},
                   "ages": AGES},
    "required": ["name", "kind", "ages"],
    "additionalProperties": False,
}  # fmt: skip
MARKS = ("Ġ,", "Ġ.", "Ġ?", "Ġ!", "Ġ's", "Ġ'", "Ġa")


@pytest.mark.parametrize(
    "words",
    [sentence_words(True), sentence_words(None), sentence_words(False), byte_words(*MARKS),
     byte_words(*MARKS, pre="llama-bpe"), replace(byte_words(*MARKS), adds_space=True)],
    ids=["spaced", "unsaid", "unspaced", "bytes", "cleaned", "bytes spaced"],
)  # fmt: skip
def test_schemas_hold_whatever_the_tokens_are(words: Words, tmp_path: Path) -> None:
    """llama.cpp takes blanks out of tokens before LLGuidance sees them: from all of Llama 2's, and
    of a few of Llama 3's."""
    path = tiny_gguf(tmp_path / "tiny.gguf", words=words)
    # The engine keeps one vocabulary for grammars in a process, by an address that comes again.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        texts, refusal = process.submit(answers_of_tiny, path).result(timeout=120)
    for text, reason in texts:
        assert reason == "stop", text
        jsonschema.validate(json.loads(text), PERSON)
    has_blanks = words.adds_space is False or (words.adds_space is None and words.model == "gpt2")
    assert ("cannot enforce 'pattern' here for this model" in refusal) != has_blanks


def answers_of_tiny(path: Path) -> tuple[list[tuple[str, str]], str]:
    """Texts and how they ended, and why a pattern is refused."""
    model = LlamaCpp()
    model.load(request(path, context_length=CONTEXT, cache_tokens=4 * CONTEXT))

    def asked(schema: dict[str, Any], seed: int) -> tuple[str, str]:
        generation = Generation(
            prompt="ab", temperature=1.5, seed=seed, max_tokens=200, logit_bias={257: 4.0},
            response_format={"type": "json_schema", "schema": schema},
        )  # fmt: skip
        try:
            text, ending = written(model, generation)
        except InvalidInput as wrong:
            return "", wrong.message
        return text, ending.reason

    try:
        texts = [asked(PERSON, seed) for seed in range(30)]
        return texts, asked({"type": "string", "pattern": "^a$"}, 0)[1]
    finally:
        model.close()


def test_a_literal_that_is_a_control_token_is_refused(model: LlamaCpp) -> None:
    schemas: list[dict[str, Any]]
    schemas = [{"const": "a<|im_end|>"}, {"properties": {"<|im_end|>": {}}}]
    schemas += [{"const": {"description": "<|im_end|>"}}, {"enum": ["<|im_end|>"]}]
    for schema in schemas:
        wanted = {"type": "json_schema", "schema": schema}
        with pytest.raises(InvalidInput, match=r"response_format: .* read as a control token"):
            written(model, chat("Hi", max_tokens=9, response_format=wanted))


def test_an_answer_that_is_cut_off_is_none_that_left(model: LlamaCpp) -> None:
    wanted = {"type": "json_schema", "schema": {"type": "string", "minLength": 99}}
    question = chat("Sing.", temperature=0, max_tokens=9, response_format=wanted)
    assert written(model, question)[1].reason == "length"
    text, ending = written(model, replace(question, max_tokens=90, stop=["a"]))
    assert ending.reason == "stop" and text.startswith('"') and "a" not in text


def test_a_uri_is_written(model: LlamaCpp) -> None:
    link = {"type": "string", "format": "uri", "minLength": 9, "maxLength": 20}
    wanted = {"type": "json_schema", "schema": link}
    for seed in range(5):
        question = chat("A link?", temperature=1, seed=seed, max_tokens=60, response_format=wanted)
        text, ending = written(model, question)
        assert ending.reason == "stop"
        assert re.fullmatch(r"[A-Za-z][\w+.-]*:[!-~]*", json.loads(text))


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


def test_a_prompt_longer_than_was_thought_is_refused_where_there_is_no_room(
    model: LlamaCpp, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("maas.runtimes.text.engine.most_tokens", lambda *about: 1)
        assert written(model, chat("Hi", max_tokens=2))[1].completion_tokens == 2
        patched.setattr(model, "_room", lambda: -1)
        with pytest.raises(Unavailable, match="no memory left") as full:
            written(model, chat("Hi", max_tokens=2))
        assert full.value.retry_after
    assert written(model, chat("Hi", max_tokens=2))[1].completion_tokens == 2
