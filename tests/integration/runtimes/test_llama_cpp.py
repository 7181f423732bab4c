"""Features of llama.cpp beyond those of every engine, with SmolLM2-135M-Instruct."""

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
from tests.support.engine_contract import Answer, chat, complete
from tests.support.fakes.generations import TEXT_TO_TEXT
from tests.support.models.packaged import smollm2
from tests.support.models.tiny_gguf import TinyVocabulary, byte_words, sentence_words, tiny_gguf

pytest.importorskip("xllamacpp", reason="needs the extra llm")

from maas.runtimes.llama_cpp import request as llama_request
from maas.runtimes.llama_cpp.engine import LlamaCpp

CONTEXT = 256
FRANCE = "What is the capital of France? Answer with one word."
"""Without the last words, `The` and `L'Étoile` are about equally likely."""


def request(path: Path, **options: Any) -> LoadRequest:
    return LoadRequest({}, TEXT_TO_TEXT, 1, options, {path.name: path}, 4)


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaCpp]:
    loaded = LlamaCpp()
    loaded.load(request(smollm2(), context_length=CONTEXT, cache_tokens=4 * CONTEXT))
    yield loaded
    loaded.close()


def test_logprobs_have_alternatives_and_bytes(model: LlamaCpp) -> None:
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
    text, _ = complete(model, chat(question, temperature=0, max_tokens=1, logit_bias={504: -100}))
    assert text.strip() != "The"
    with pytest.raises(InvalidInput, match="no token 999999"):
        complete(model, chat(question, max_tokens=1, logit_bias={999_999: 1.0}))


def test_a_json_object_is_valid(model: LlamaCpp) -> None:
    response_format = {"type": "json_object"}
    question = chat(
        "A person as JSON.", temperature=0, max_tokens=300, response_format=response_format
    )
    text, ending = complete(model, question)
    assert text.lstrip().startswith("{")
    if ending.reason == "stop":
        assert isinstance(json.loads(text), dict)


ENDS = (0, 2)
"""End-of-text tokens."""
NEVER = {"allOf": [{"type": "number", "multipleOf": 0.5, "maximum": -1}]}
"""The engine's own LLGuidance has no text for this schema; the version of OpenMaaS has."""


@pytest.mark.parametrize("schema", [NEVER, {"type": "array", "prefixItems": [{"const": 1}, NEVER],
                                            "minItems": 2}])  # fmt: skip
@pytest.mark.parametrize("kind", ["response_format", "tools"])
def test_an_answer_that_violates_its_schema_is_an_error(
    model: LlamaCpp, monkeypatch: pytest.MonkeyPatch, schema: dict[str, Any], kind: str
) -> None:
    monkeypatch.setattr(llama_request, "enforceable", lambda schema, field: schema)
    fields: dict[str, Any] = {"response_format": {"type": "json_schema", "schema": schema}}
    if kind == "tools":
        parameters = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
        function = {"name": "f", "parameters": parameters}
        fields = {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
    answer = Answer(model, chat("Sing.", temperature=0, max_tokens=60, **fields))
    with pytest.raises(InferenceFailed, match="left the requested format"):
        answer.end()
    assert answer.tokens < 40
    output = answer.text + "".join(c.arguments for p in answer.pieces for c in p.tool_calls)
    assert "Sing" not in output and len(output) < 40
    with pytest.raises(InferenceFailed, match="left the requested format"):
        complete(model, replace(answer.generation, logit_bias=dict.fromkeys(ENDS, 100.0)))
    assert complete(model, chat("Hi", max_tokens=2))[1].completion_tokens == 2


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
def test_schemas_are_enforced_with_all_vocabularies(words: TinyVocabulary, tmp_path: Path) -> None:
    """llama.cpp removes blanks from tokens before LLGuidance gets them: from all of Llama 2's, and
    from a few of Llama 3's."""
    path = tiny_gguf(tmp_path / "tiny.gguf", words=words)
    # The engine caches the vocabulary for grammars per process, by an address that may recur.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        texts, refusal = process.submit(answers_of_tiny, path).result(timeout=120)
    for text, reason in texts:
        assert reason == "stop", text
        jsonschema.validate(json.loads(text), PERSON)
    has_blanks = words.adds_space is False or (words.adds_space is None and words.model == "gpt2")
    assert ("cannot enforce 'pattern' here for this model" in refusal) != has_blanks


def answers_of_tiny(path: Path) -> tuple[list[tuple[str, str]], str]:
    """Texts with the reasons of their endings, and the refusal of a pattern."""
    model = LlamaCpp()
    model.load(request(path, context_length=CONTEXT, cache_tokens=4 * CONTEXT))

    def answer(schema: dict[str, Any], seed: int) -> tuple[str, str]:
        generation = Generation(
            prompt="ab", temperature=1.5, seed=seed, max_tokens=200, logit_bias={257: 4.0},
            response_format={"type": "json_schema", "schema": schema},
        )  # fmt: skip
        try:
            text, ending = complete(model, generation)
        except InvalidInput as wrong:
            return "", wrong.message
        return text, ending.reason

    try:
        texts = [answer(PERSON, seed) for seed in range(30)]
        return texts, answer({"type": "string", "pattern": "^a$"}, 0)[1]
    finally:
        model.close()


def test_a_literal_that_is_a_control_token_is_refused(model: LlamaCpp) -> None:
    schemas: list[dict[str, Any]]
    schemas = [{"const": "a<|im_end|>"}, {"properties": {"<|im_end|>": {}}}]
    schemas += [{"const": {"description": "<|im_end|>"}}, {"enum": ["<|im_end|>"]}]
    for schema in schemas:
        response_format = {"type": "json_schema", "schema": schema}
        with pytest.raises(InvalidInput, match=r"response_format: .* is a control token"):
            complete(model, chat("Hi", max_tokens=9, response_format=response_format))


def test_a_truncated_answer_does_not_violate_its_schema(model: LlamaCpp) -> None:
    long_text = {"type": "json_schema", "schema": {"type": "string", "minLength": 99}}
    question = chat("Sing.", temperature=0, max_tokens=9, response_format=long_text)
    assert complete(model, question)[1].reason == "length"
    text, ending = complete(model, replace(question, max_tokens=90, stop=["a"]))
    assert ending.reason == "stop" and text.startswith('"') and "a" not in text


def test_a_uri_is_generated(model: LlamaCpp) -> None:
    link = {"type": "string", "format": "uri", "minLength": 9, "maxLength": 20}
    response_format = {"type": "json_schema", "schema": link}
    base = chat("A link?", temperature=1, max_tokens=60, response_format=response_format)
    for seed in range(5):
        question = replace(base, seed=seed)
        text, ending = complete(model, question)
        assert ending.reason == "stop"
        assert re.fullmatch(r"[A-Za-z][\w+.-]*:[!-~]*", json.loads(text))


def test_the_engines_own_server_is_unreachable(model: LlamaCpp) -> None:
    mine = psutil.Process().net_connections(kind="inet")
    assert [c for c in mine if c.status == psutil.CONN_LISTEN] == []
    for connection in psutil.Process().net_connections(kind="unix"):
        path = str(connection.laddr or "")
        if "maas-llama" in path:
            with pytest.raises(OSError), socket.socket(socket.AF_UNIX) as connection_attempt:
                connection_attempt.connect(path)


@pytest.mark.parametrize("damage", ["header", "half", "text"])
def test_a_damaged_file_is_refused_with_a_reason(tmp_path: Path, damage: str) -> None:
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


def test_a_prompt_longer_than_estimated_is_refused_if_there_is_no_room(
    model: LlamaCpp, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("maas.runtimes.text.engine.most_tokens", lambda *about: 1)
        assert complete(model, chat("Hi", max_tokens=2))[1].completion_tokens == 2
        patched.setattr(model, "_room", lambda: -1)
        with pytest.raises(Unavailable, match="no memory left") as full:
            complete(model, chat("Hi", max_tokens=2))
        assert full.value.retry_after
    assert complete(model, chat("Hi", max_tokens=2))[1].completion_tokens == 2
