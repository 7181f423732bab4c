"""A language model that loads and writes within milliseconds: two blocks, random weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WIDTH, HEADS, INNER, BLOCKS, CONTEXT = 64, 2, 128, 2, 1024
END = "<|end|>"


@dataclass(frozen=True)
class Words:
    """A vocabulary. Types of tokens are those of GGUF: 1 text, 2 unknown, 3 control, 6 a byte."""

    model: str
    tokens: list[str]
    types: list[int]
    end: int
    pre: str = ""
    adds_space: bool | None = None


def byte_words(*more: str, pre: str = "smollm") -> Words:
    """All bytes, and `more` texts that Ġ begins, or a part of each: a merge makes them of two."""
    tokens = [*_bytes(), END, *more]
    return Words("gpt2", tokens, [1] * 256 + [3] + [1] * len(more), 256, pre)


def sentence_words(adds_space: bool | None) -> Words:
    """As SentencePiece has them: each letter with a blank before it is a token, too."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    tokens += [*letters, *(f"▁{letter}" for letter in letters)]
    types = [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259)
    return Words("llama", tokens, types, 2, adds_space=adds_space)


def tiny_gguf(path: Path, kind: str = "Q8_0", seed: int = 0, words: Words | None = None) -> Path:
    """A llama whose matrices have the type `kind`, with byte-level tokens unless `words` says
    otherwise; skips without gguf."""
    gguf = pytest.importorskip("gguf")
    drawn = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
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
    words = words or byte_words()
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
    wanted = gguf.GGMLQuantizationType[kind]
    shapes = {"token_embd": (len(tokens), WIDTH)}
    for block in range(BLOCKS):
        square = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (WIDTH, WIDTH))
        wide = {"ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER)}
        shapes |= {f"blk.{block}.{name}": shape for name, shape in (square | wide).items()}
    for name, shape in shapes.items():
        scale = 0.3 if name == "token_embd" else 2 / np.sqrt(shape[1])
        values = (drawn.standard_normal(shape) * scale).astype(np.float32)
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, wanted), raw_dtype=wanted)
    norms = [f"blk.{b}.{name}" for b in range(BLOCKS) for name in ("attn_norm", "ffn_norm")]
    for name in (*norms, "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _bytes() -> list[str]:
    """The characters that stand for bytes in byte-level vocabularies (GPT-2)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(n) if n in plain else chr(next(others)) for n in range(256)]


def in_transformers(path: Path) -> Any:
    """The same llama as transformers computes it, with FP32 weights; skips without transformers."""
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
            # llama.cpp turns neighbors, transformers turns halves: rows are in another order.
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
