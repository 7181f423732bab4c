"""Converts a GGUF file to a folder with safetensors, config.json and tokenizer.json.

No package contains a language model in that format. The weights are those of SmolLM2, which its
GGUF file has in 4 and 8 bits, so engines for either format must generate the same text.
"""

from __future__ import annotations

import json
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
_SPECIAL = 17
"""Number of SmolLM2's special tokens, which come first."""
_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip
"""Names of a layer's weights in llama.cpp, and those in transformers."""


class Gguf:
    """Content of a GGUF file of the architecture `llama`. For trusted files only: engines check
    theirs with `maas.runtimes.formats.gguf`."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as stream:
            self._data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._at = 8
        tensors, fields = self._number("Q"), self._number("Q")
        self.fields = {self._text(): self._value(self._number("I")) for _ in range(fields)}
        self._tensors = [self._tensor() for _ in range(tensors)]
        self._start = -(-self._at // 32) * 32

    def _number(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self._data, self._at)
        self._at += struct.calcsize(f"<{code}")
        return value

    def _text(self) -> str:
        size = self._number("Q")
        self._at += size
        return self._data[self._at - size : self._at].decode()

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            item, count = self._number("I"), self._number("Q")
            return [self._value(item) for _ in range(count)]
        return self._number(_SCALARS[kind])

    def _tensor(self) -> tuple[str, list[int], int, int]:
        name = self._text()
        shape = [self._number("Q") for _ in range(self._number("I"))]
        return name, shape[::-1], self._number("I"), self._number("Q")

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """The weights by their names in transformers."""
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
        from gguf.quants import dequantize

        weights = {}
        for name, shape, kind, offset in self._tensors:
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
            count = int(np.prod(shape)) // block * size
            raw = np.frombuffer(self._data, np.uint8, count, self._start + offset)
            rows = raw.reshape(*shape[:-1], -1)
            values = dequantize(rows, GGMLQuantizationType(kind)).reshape(shape)
            weights[_renamed(name)] = np.ascontiguousarray(self._permuted(name, values))
        return weights

    def _permuted(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reorders rows for rotary embeddings: llama.cpp rotates pairs of neighbors, transformers
        pairs of one half of a head with the other."""
        heads = {
            "attn_q": self.fields["llama.attention.head_count"],
            "attn_k": self.fields["llama.attention.head_count_kv"],
        }.get(name.split(".")[-2])
        if heads is None:
            return values
        return values.reshape(heads, -1, 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)


def _renamed(name: str) -> str:
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    _, layer, kind, _ = name.split(".")
    return f"model.layers.{layer}.{_NAMES[kind]}.weight"


def safetensors_folder(folder: Path, gguf: Path, tiny: bool = False) -> Path:
    """Writes the model of the file `gguf` to `folder`; `tiny`: with its vocabulary and a few random
    weights."""
    source = Gguf(gguf)
    folder.mkdir(parents=True, exist_ok=True)
    config = _config(source.fields) | (_TINY if tiny else {})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    template = source.fields["tokenizer.chat_template"]
    tokenizer = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    _tokenizer(source.fields).save(str(folder / "tokenizer.json"))
    weights = _random(config) if tiny else source.weights()
    from safetensors.numpy import save_file

    save_file(weights, str(folder / "model.safetensors"), {"format": "pt"})
    return folder


_TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}  # fmt: skip


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    heads = fields["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": fields["llama.vocab_size"],
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": fields["llama.embedding_length"] // heads,
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": 1e-5,
        "rope_theta": fields["llama.rope.freq_base"],
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }


def _tokenizer(fields: dict[str, Any]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    words = fields["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({word: at for at, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in words[:_SPECIAL]])
    return tokenizer


def _random(config: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(0)
    size, inner = config["hidden_size"], config["intermediate_size"]
    few = config["num_key_value_heads"] * config["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (size, size), "self_attn.k_proj": (few, size),
        "self_attn.v_proj": (few, size), "self_attn.o_proj": (size, size),
        "mlp.gate_proj": (inner, size), "mlp.up_proj": (inner, size),
        "mlp.down_proj": (size, inner),
    }  # fmt: skip
    weights = {"model.norm.weight": np.ones(size, np.float32)}
    weights["model.embed_tokens.weight"] = random.normal(
        0, 0.05, (config["vocab_size"], size)
    ).astype(np.float32)
    for layer in range(config["num_hidden_layers"]):
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{layer}.{name}.weight"] = np.ones(size, np.float32)
        for name, shape in shapes.items():
            values = random.normal(0, 0.2, shape).astype(np.float32)
            weights[f"model.layers.{layer}.{name}.weight"] = values
    return weights
