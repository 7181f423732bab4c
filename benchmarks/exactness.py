"""Deviation of text generation engines from an exact computation with the same weights.

    python -m benchmarks.exactness

The reference uses the same GGUF weights as 32-bit floats (transformers on PyTorch). For each of a
few simple questions, the table has the most likely first token, its lead over the second one in
nats, and the start of each engine's answer at temperature 0. It also has the error of the logprobs
of llama.cpp for likely tokens, with several settings. The token ids of the prompts are those of
transformers' own chat template.
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
"""Names of a layer's tensors in transformers, by their names in GGUF."""
LIKELY = 6
HEADS = {"attn_q": 9, "attn_k": 3}
Settings = dict[str, Any]


class Tuned(LlamaCpp):
    """llama.cpp with settings that variants do not offer."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings

    def _parameters(self, *arguments: Any) -> Any:
        parameters = super()._parameters(*arguments)
        for name, value in self._settings.items():
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
            _, layer, part, _ = tensor.name.split(".")
            name = f"model.layers.{layer}.{NAMES[part]}"
            if part in HEADS:  # GGUF stores the two halves of a rotation interleaved
                split = values.reshape(HEADS[part], -1, 2, values.shape[-1])
                values = split.swapaxes(1, 2).reshape(values.shape)
        weights[f"{name}.weight"] = torch.from_numpy(np.ascontiguousarray(values))
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict(weights)
    return model


def first_logprobs(model: Any, ids: list[int]) -> Any:
    """Exact logprobs of the first token: float64 [vocabulary]."""
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0, -1].double(), -1).numpy()


def answer_start(engine: Generator, ids: list[int], logprobs: int) -> tuple[str, dict[str, float]]:
    """Start of an engine's answer at temperature 0, and logprobs of likely first tokens."""
    generation = Generation(prompt=ids, temperature=0.0, max_tokens=8, logprobs=logprobs)
    answer = Answer(engine, generation)
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
        "prompts in batches of 8 tokens": (lambda: Tuned({"n_batch": 8, "n_ubatch": 8}), 20),
        "openvino": (OpenVino, 0),
    }
    console, table = Console(width=130), Table("question", "exact (lead)", *engines)
    starts: dict[str, list[tuple[str, dict[str, float]]]] = {}
    for name, (make, logprobs) in engines.items():
        engine = make()
        engine.load(load_request(path))
        starts[name] = [answer_start(engine, ids, logprobs) for ids in prompts]
        engine.close()
    for i, question in enumerate(QUESTIONS):
        order = np.argsort(exact[i])[::-1]
        lead = exact[i][order[0]] - exact[i][order[1]]
        first = tokenizer.decode([int(order[0])])
        table.add_row(question, f"{first} ({lead:.2f})", *(b[i][0][:12] for b in starts.values()))
    console.print(table)
    for name, answers in starts.items():
        same, errors = 0, []
        for logprobs, (text, likely) in zip(exact, answers, strict=True):
            order = np.argsort(logprobs)[::-1][:LIKELY]
            tokens = [tokenizer.decode([int(one)]) for one in order]
            same += text.startswith(tokens[0])
            for token, index in zip(tokens, order, strict=True):
                if token in likely:
                    errors.append(abs(likely[token] - logprobs[index]))
        text = f"{name}: {same} of {len(QUESTIONS)} answers start with the most likely token"
        if errors:
            text += f"; errors of logprobs {np.mean(errors):.3f} nats, at most {max(errors):.3f}"
        console.print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
