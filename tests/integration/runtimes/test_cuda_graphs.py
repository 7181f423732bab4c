"""Steps padded to a few sizes, replayed or not, give the same tokens as unpadded ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the extra transformers")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from maas.runtimes.transformers import cuda_graphs
from maas.runtimes.transformers.cuda_graphs import CudaGraphBatch, padded
from maas.runtimes.transformers.paged_batch import PagedBatch

WORDS, SEQUENCES, TOKENS, BATCH = 101, 5, 512, 24
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class _Padded(CudaGraphBatch):
    """Without a GPU: everything except the graphs. Records the sizes that would have one."""

    sizes: set[tuple[int, int]]

    def _run(self, size: tuple[int, int], forward: Callable[[], None], stream: Any) -> None:
        self.sizes = getattr(self, "sizes", set()) | {size}
        if DEVICE == "cuda":
            super()._run(size, forward, stream)
        else:
            forward()


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    return LlamaForCausalLM(config).to(DEVICE).eval()


def generate(batch: PagedBatch) -> dict[int, list[int]]:
    """Greedy texts of sequences that start one after another; one is dropped early. Prompts are
    shorter and longer than a step."""
    texts: dict[int, list[int]] = {}
    for step in range(40):
        if step % 3 == 0 and step < 15:
            number = step // 3
            batch.add(number, [(7 * number + at) % WORDS for at in range(1 + 17 * number)])
            texts[number] = []
        due, logits = batch.step()
        tokens = logits.argmax(-1).tolist()
        batch.put(tokens)
        for number, token in zip(due, tokens, strict=True):
            texts[number].append(token)
        if step == 20:
            batch.drop(1)
    for number in (0, 2, 3, 4):
        batch.drop(number)
    return texts


def test_padding_changes_no_token(model: Any) -> None:
    plain = generate(PagedBatch(model, SEQUENCES, TOKENS, BATCH))
    batch = _Padded(model, SEQUENCES, TOKENS, BATCH)
    assert generate(batch) == plain
    assert {len(text) for text in plain.values()} > {40} and len(set(plain[4])) > 3
    # The second texts need no sizes but those of the first.
    recorded = set(batch.sizes)
    assert generate(batch) == plain and batch.sizes == recorded
    assert {inputs for inputs, _ in recorded} <= {1, 2, 4, 8, 16, BATCH}
    assert len({cached for _, cached in recorded}) == 2  # none, or this whole cache


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
def test_the_number_of_graphs_is_limited(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = generate(PagedBatch(model, SEQUENCES, TOKENS, BATCH))
    monkeypatch.setattr(cuda_graphs, "MOST_GRAPHS", 3)
    batch = CudaGraphBatch(model, SEQUENCES, TOKENS, BATCH)
    for _ in range(3):
        assert generate(batch) == plain and len(batch._graphs) == 3


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
def test_graphs_are_released_for_a_step_that_needs_their_memory(model: Any) -> None:
    plain = generate(PagedBatch(model, SEQUENCES, TOKENS, BATCH))
    batch = CudaGraphBatch(model, SEQUENCES, TOKENS, BATCH)
    failures: list[int] = []

    def is_full(module: Any, arguments: Any) -> None:
        if not torch.cuda.is_current_stream_capturing() and len(batch._graphs) > 1:
            failures.append(len(batch._graphs))
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = model.register_forward_pre_hook(is_full)
    try:
        assert generate(batch) == plain
    finally:
        hook.remove()
    assert failures and batch._is_graphed


@pytest.mark.parametrize(
    ("count", "grain", "expected"),
    [(1, 512, 1), (2, 512, 2), (3, 512, 4), (400, 512, 512), (512, 512, 512), (513, 512, 1024),
     (1500, 512, 1536)],
)  # fmt: skip
def test_sizes_are_few(count: int, grain: int, expected: int) -> None:
    assert padded(count, grain) == expected


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
def test_a_model_that_cannot_be_recorded_is_computed(model: Any) -> None:
    """The last test: PyTorch draws no random numbers on the device after it."""
    plain = generate(PagedBatch(model, SEQUENCES, TOKENS, BATCH))

    def inspect(module: Any, arguments: Any, output: Any) -> Any:
        output.logits.max().item()  # synchronizes with the host, which no graph can record
        return output

    hook = model.register_forward_hook(inspect)
    try:
        batch = CudaGraphBatch(model, SEQUENCES, TOKENS, BATCH)
        assert generate(batch) == plain and not batch._graphs
    finally:
        hook.remove()
