"""How near engines for text come to what their weights say when they are computed exactly.

    python -m benchmarks.exactness

The reference holds the same GGUF weights as 32-bit floats (transformers on PyTorch). For each of a
few plain questions: the most likely first token, its lead over the next in nats, what each engine
begins with at temperature 0, and how far llama.cpp's logprobs of likely tokens are off, also with
other settings of it. The prompt's token ids are those of transformers' own template.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from maas.domain.generation import Generation
from maas.runtimes.base import Generator
from maas.runtimes.llama_cpp.engine import LlamaCpp
from maas.runtimes.openvino.engine import OpenVino
from tests.support.engine_contract import Answer, load_request
from tests.support.models.packaged import smollm2

QUESTIONS = (
    "What is the capital of France?", "What is the capital of Italy?", "Who wrote Hamlet?",
    "What color is the sky?", "How many days has a week?", "What do bees make?",
    "Name a fruit.", "What is 2 + 2?", "Is fire hot or cold?", "What is the opposite of up?",
    "Where do fish live?", "What is ice made of?",
)  # fmt: skip
NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
"""Of a layer's tensors, in GGUF and in transformers."""
LIKELY = 6
HEADS = {"attn_q": 9, "attn_k": 3}
Settings = dict[str, Any]


class Tuned(LlamaCpp):
    """With settings of the engine that variants cannot say."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._more = settings

    def _parameters(self, *given: Any) -> Any:
        parameters = super()._parameters(*given)
        for name, value in self._more.items():
            setattr(parameters, name, value)
        return parameters


def exact_model() -> Any:
    config = LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, rms_norm_eps=1e-5, rope_theta=100_000.0,
        tie_word_embeddings=True, max_position_embeddings=8192,
    )  # fmt: skip
    weights = {}
    for tensor in GGUFReader(str(smollm2())).tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if tensor.name in ("token_embd.weight", "output_norm.weight"):
            name = {"t": "model.embed_tokens", "o": "model.norm"}[tensor.name[0]]
        else:
            _, layer, kind, _ = tensor.name.split(".")
            name = f"model.layers.{layer}.{NAMES[kind]}"
            if kind in HEADS:  # GGUF has the two halves of a rotation side by side
                split = values.reshape(HEADS[kind], -1, 2, values.shape[-1])
                values = split.swapaxes(1, 2).reshape(values.shape)
        weights[f"{name}.weight"] = torch.from_numpy(np.ascontiguousarray(values))
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict(weights)
    return model


def first_logprobs(model: Any, ids: list[int]) -> Any:
    """Of the first token, exactly: float64 [vocabulary]."""
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0, -1].double(), -1).numpy()


def begins(engine: Generator, ids: list[int], logprobs: int) -> tuple[str, dict[str, float]]:
    """What an engine writes first at temperature 0, and the logprobs of likely first tokens."""
    asked = Generation(prompt=ids, temperature=0.0, max_tokens=8, logprobs=logprobs)
    answer = Answer(engine, asked)
    answer.end()
    likely = {one.token: one.logprob for one in answer.logprobs[0].top}
    return answer.text, likely


def main() -> int:
    path = smollm2()
    tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    model = exact_model()
    prompts, exact = [], []
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        prompts.append(tokenizer(text, add_special_tokens=False).input_ids)
        exact.append(first_logprobs(model, prompts[-1]))
    engines: dict[str, tuple[Callable[[], Generator], int]] = {
        "llama_cpp": (lambda: Tuned({}), 20),
        "flash attention off": (lambda: Tuned({"flash_attn_type": 0}), 20),
        "weights not repacked": (lambda: Tuned({"no_extra_bufts": True}), 20),
        "prompts read by 8 tokens": (lambda: Tuned({"n_batch": 8, "n_ubatch": 8}), 20),
        "openvino": (OpenVino, 0),
    }
    console, table = Console(width=130), Table("question", "exact (lead)", *engines)
    begun: dict[str, list[tuple[str, dict[str, float]]]] = {}
    for name, (make, logprobs) in engines.items():
        engine = make()
        engine.load(load_request(path))
        begun[name] = [begins(engine, ids, logprobs) for ids in prompts]
        engine.close()
    for at, question in enumerate(QUESTIONS):
        order = np.argsort(exact[at])[::-1]
        lead = exact[at][order[0]] - exact[at][order[1]]
        first = tokenizer.decode([int(order[0])])
        table.add_row(question, f"{first} ({lead:.2f})", *(b[at][0][:12] for b in begun.values()))
    console.print(table)
    for name, answers in begun.items():
        same, off = 0, []
        for told, (text, likely) in zip(exact, answers, strict=True):
            order = np.argsort(told)[::-1][:LIKELY]
            tokens = [tokenizer.decode([int(one)]) for one in order]
            same += text.startswith(tokens[0])
            off += [
                abs(likely[t] - told[o]) for t, o in zip(tokens, order, strict=True) if t in likely
            ]
        error = f"logprobs off by {np.mean(off):.3f}, at most {max(off):.3f} nats" if off else ""
        console.print(f"{name}: {same} of {len(QUESTIONS)} begin alike; {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
