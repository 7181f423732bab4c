"""A language model that loads and generates within milliseconds: two blocks, random weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WIDTH, HEADS, INNER, BLOCKS, CONTEXT = 64, 2, 128, 2, 1024
END = "<|end|>"


@dataclass(frozen=True)
class TinyVocabulary:
    """Tokens with their types in GGUF: 1 text, 2 unknown, 3 control, 6 byte."""

    model: str
    tokens: list[str]
    types: list[int]
    end: int
    pre: str = ""
    adds_space: bool | None = None


def byte_words(*more: str, pre: str = "smollm") -> TinyVocabulary:
    """All bytes, and `more` texts, each merged from Ġ and the rest."""
    tokens = [*_bytes(), END, *more]
    return TinyVocabulary("gpt2", tokens, [1] * 256 + [3] + [1] * len(more), 256, pre)


def sentence_words(adds_space: bool | None) -> TinyVocabulary:
    """A vocabulary like SentencePiece's: each letter is a token, also with a blank before it."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    tokens += [*letters, *(f"▁{letter}" for letter in letters)]
    types = [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259)
    return TinyVocabulary("llama", tokens, types, 2, adds_space=adds_space)


def tiny_gguf(
    path: Path, kind: str = "Q8_0", seed: int = 0, words: TinyVocabulary | None = None
) -> Path:
    """A llama whose matrices have the type `kind`, by default with byte-level tokens. Skips the
    test without gguf."""
    gguf = pytest.importorskip("gguf")
    words = words or byte_words()
    writer = gguf.GGUFWriter(path, "llama")
    _add_metadata(gguf, writer, words)
    _add_tensors(gguf, writer, len(words.tokens), kind, seed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_metadata(gguf: Any, writer: Any, words: TinyVocabulary) -> None:
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    tokens = words.tokens
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model(words.model)
    if words.pre:
        writer.add_tokenizer_pre(words.pre)
    writer.add_token_list(tokens)
    writer.add_token_types(words.types)
    if words.model == "gpt2":
        writer.add_token_merges(["Ġ Ġ", *(f"Ġ {text[1:]}" for text in tokens[257:])])
    else:
        writer.add_token_scores([-1.0] * len(tokens))
    if words.adds_space is not None:
        writer.add_add_space_prefix(words.adds_space)
    writer.add_eos_token_id(words.end)
    writer.add_bos_token_id(words.end)
    writer.add_add_bos_token(False)


def _add_tensors(gguf: Any, writer: Any, tokens: int, kind: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    quantization = gguf.GGMLQuantizationType[kind]
    shapes = {"token_embd": (tokens, WIDTH)}
    for block in range(BLOCKS):
        square = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (WIDTH, WIDTH))
        wide = {"ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER)}
        shapes |= {f"blk.{block}.{name}": shape for name, shape in (square | wide).items()}
    for name, shape in shapes.items():
        scale = 0.3 if name == "token_embd" else 2 / np.sqrt(shape[1])
        values = (random.standard_normal(shape) * scale).astype(np.float32)
        data = gguf.quants.quantize(values, quantization)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=quantization)
    norms = [f"blk.{b}.{name}" for b in range(BLOCKS) for name in ("attn_norm", "ffn_norm")]
    for name in (*norms, "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))


def _bytes() -> list[str]:
    """The characters for bytes in byte-level vocabularies (GPT-2)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(n) if n in plain else chr(next(others)) for n in range(256)]


def in_transformers(path: Path) -> Any:
    """The same model in transformers, with FP32 weights. Skips the test without transformers."""
    gguf, torch = pytest.importorskip("gguf"), pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    reader = gguf.GGUFReader(path)

    def key(name: str) -> Any:
        return reader.fields[f"llama.{name}"].contents()

    heads, few = key("attention.head_count"), key("attention.head_count_kv")
    width = key("embedding_length")
    config = transformers.LlamaConfig(
        vocab_size=len(reader.fields["tokenizer.ggml.tokens"].contents()),
        hidden_size=width,
        intermediate_size=key("feed_forward_length"),
        num_hidden_layers=key("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=few,
        max_position_embeddings=key("context_length"),
        rms_norm_eps=key("attention.layer_norm_rms_epsilon"),
        rope_theta=key("rope.freq_base"),
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    weights = {}
    for tensor in reader.tensors:
        values = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        name = tensor.name.removesuffix(".weight")
        for ours, theirs in _NAMES:
            name = name.replace(ours, theirs)
        if name.endswith(("q_proj", "k_proj")):
            # llama.cpp rotates neighbors, transformers halves: rows have another order.
            count = heads if name.endswith("q_proj") else few
            half = len(values) // count // 2
            values = values.reshape(count, half, 2, -1).swapaxes(1, 2).reshape(values.shape)
        weights[f"model.{name}.weight"] = values
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights)
    return model


_NAMES = (
    ("blk.", "layers."), ("token_embd", "embed_tokens"), ("output_norm", "norm"),
    ("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm"),
    ("attn_output", "self_attn.o_proj"), ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"), ("attn_v", "self_attn.v_proj"),
    ("ffn_gate", "mlp.gate_proj"), ("ffn_up", "mlp.up_proj"), ("ffn_down", "mlp.down_proj"),
)  # fmt: skip
