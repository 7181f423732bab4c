"""The graph computes the same as the Hugging Face library, for small random models."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from maas.domain import standard_signatures
from maas.domain.errors import ContextLengthExceeded, InvalidInput
from maas.runtimes.base import LoadRequest

torch = pytest.importorskip("torch", reason="computes what is expected")
transformers = pytest.importorskip("transformers", reason="computes what is expected")
tokenizers = pytest.importorskip("tokenizers", reason="the runtime's own library")
safetensors = pytest.importorskip("safetensors.torch", reason="the runtime's own library")

from maas.runtimes.encoders.sentence_encoder import SentenceEncoder  # noqa: E402

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *(f"w{n}" for n in range(60))]
SMALL = {
    "vocab_size": len(WORDS), "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
    "intermediate_size": 40, "max_position_embeddings": 40, "pad_token_id": 0,
}  # fmt: skip


def tokenizer_json() -> bytes:
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    return bytes(tokenizer.to_str().encode())


def model_of(kind: str, **more: Any) -> Any:
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(kind, **SMALL | more)
    model = transformers.AutoModel.from_config(config).eval()
    for weight in model.parameters():  # biases and norms of a fresh model are all 0 and 1
        torch.nn.init.normal_(weight, std=0.3)
    return model


def files_of(model: Any) -> dict[str, bytes]:
    tensors = {k: v.contiguous() for k, v in model.state_dict().items()}
    return {
        "config.json": json.dumps(model.config.to_dict()).encode(),
        "tokenizer.json": tokenizer_json(),
        "model.safetensors": safetensors.save(tensors),
    }


def encoder(files: dict[str, bytes], size: int = 24, **options: Any) -> SentenceEncoder:
    runtime = SentenceEncoder()
    runtime.load(LoadRequest(files, standard_signatures.embedding(size), 1, options))
    return runtime


def embed(runtime: SentenceEncoder, *texts: str, is_tokens: bool = False) -> dict[str, Any]:
    rows = np.array(texts, object)
    return runtime.predict({"text": rows, "is_tokens": np.full(len(texts), is_tokens)})


@pytest.mark.parametrize(
    ("kind", "more"),
    [("bert", {}), ("bert", {"hidden_act": "gelu_new"}), ("roberta", {}), ("xlm-roberta", {})],
)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_equal_those_of_the_library(kind: str, more: dict[str, Any], pooling: str) -> None:
    model = model_of(kind, **more)
    texts = ["w1 w2 w3", "w5", " ".join(f"w{n}" for n in range(30)), "w9 w9 nothing w9"]
    outputs = embed(encoder(files_of(model), pooling=pooling), *texts)
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json().decode())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for text, vector, tokens in zip(texts, outputs["embedding"], outputs["tokens"], strict=True):
        ids = tokenizer.encode(text).ids
        with torch.no_grad():
            states = model(torch.tensor([ids])).last_hidden_state[0]
        expected = states[0] if pooling == "cls" else states.mean(0)
        expected = expected / expected.norm()
        assert np.abs(vector - expected.numpy()).max() < 1e-4
        assert tokens == len(ids)


def test_rows_do_not_depend_on_their_neighbors() -> None:
    runtime = encoder(files_of(model_of("bert")))
    texts = [" ".join(f"w{(7 * n + k) % 60}" for k in range(n % 29 + 1)) for n in range(200)]
    together = embed(runtime, *texts)["embedding"]
    for at in (0, 28, 57, 199):
        assert np.abs(embed(runtime, texts[at])["embedding"][0] - together[at]).max() < 1e-5


def test_a_long_text_is_refused_unless_the_variant_truncates() -> None:
    files = files_of(model_of("bert"))
    text = " ".join(["w1"] * 100)
    with pytest.raises(ContextLengthExceeded, match=r"40 tokens.*102"):
        embed(encoder(files), text)
    with pytest.raises(ContextLengthExceeded, match="10 tokens"):
        embed(encoder(files, max_tokens=10), text)
    cut = embed(encoder(files, max_tokens=10, truncate=True), text, "w1")
    assert cut["tokens"].tolist() == [10, 3]


def test_token_ids_are_used_unchanged() -> None:
    runtime = encoder(files_of(model_of("bert")))
    by_text = embed(runtime, "w1 w2")["embedding"]
    by_ids = embed(runtime, "1 5 6 2", is_tokens=True)["embedding"]
    assert np.array_equal(by_text, by_ids)
    for wrong in ("", "x", "1.5", "-1", "64"):
        with pytest.raises(InvalidInput):
            embed(runtime, wrong, is_tokens=True)


def test_other_files_and_options_are_refused() -> None:
    files = files_of(model_of("bert"))
    config = json.loads(files["config.json"])
    for change in (
        {"config.json": json.dumps(config | {"model_type": "gpt2"}).encode()},
        {"config.json": json.dumps(config | {"hidden_size": "24"}).encode()},
        {"config.json": b"{"},
        {"tokenizer.json": b"{}"},
        {"model.safetensors": b"\xff" * 100},
        {"model.safetensors": safetensors.save({"a": torch.zeros(3)})},
    ):
        with pytest.raises(InvalidInput):
            encoder(files | change)
    for name in files:
        with pytest.raises(InvalidInput):
            encoder({k: v for k, v in files.items() if k != name})
    with pytest.raises(InvalidInput, match="24"):
        encoder(files, size=25)
    with pytest.raises(InvalidInput, match="pooling"):
        encoder(files, pooling="max")
