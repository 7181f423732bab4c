"""A batch whose forward passes are recorded once and replayed: CUDA graphs.

A model of 1 B parameters is about a thousand small kernels a step; started one by one from Python
they keep a GPU waiting nine tenths of the time. A graph starts them all at once, but only for
tensors of the sizes it was recorded with. So what a step reads is padded to one of few sizes, and
each size is recorded when it is first met. Padding writes to a page of the cache that nobody reads,
and reads from one that stays zero (both the library's), behind the mask.
https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from maas.runtimes.paged_batch import PagedBatch

log = logging.getLogger(__name__)

_READ_GRAIN, _CACHE_GRAIN = 512, 16_384
"""Tokens read in a step, and those of the cache they look at, are padded to a power of two, above
these to a multiple: few sizes where a step is short, little waste where it is long."""
_LEAST_CACHE = 1024


def padded(count: int, grain: int) -> int:
    """The smallest power of two that is at least `count`, or multiple of `grain` above that."""
    if count > grain:
        return -(-count // grain) * grain
    return 1 << (count - 1).bit_length()


class GraphedBatch(PagedBatch):
    """A PagedBatch on a CUDA device. Its logits lie where the next step writes its own."""

    def __init__(self, model: Any, sequences: int, tokens: int, batch: int) -> None:
        super().__init__(model, sequences, tokens, batch)
        self._graphs: dict[tuple[int, int], Any] = {}
        self._is_graphed = True
        runner = self._processor.model_runner
        runner.pad_inputs = True
        runner.maybe_pad_inputs = self._sizes
        words = model.get_output_embeddings().weight.shape[0]
        self._logits = torch.zeros((sequences, words), device=model.device)
        self._warm_up(sequences)

    def _sizes(self, read: int, cached: int, is_decoding: bool) -> tuple[int, int]:
        """What the library pads a step to, by tokens read and tokens of the cache."""
        if not self._is_graphed:
            return read, cached
        cache = self._processor.cache
        # Without any, the library's forward pass is another, which does not look at the cache.
        if cached:
            cached = max(_LEAST_CACHE, padded(cached, _CACHE_GRAIN))
        return (
            min(padded(read, _READ_GRAIN), cache.max_batch_tokens),
            min(cached, cache.max_tokens_read),
        )

    def _warm_up(self, sequences: int) -> None:
        """Records the steps that are most common, so that no first caller waits for them."""
        count = 1
        while count <= sequences:
            for number in range(count):
                self.add(number, [0])
            for _ in range(2):  # a prompt of one token each, and a token after it
                self.put([0] * len(self.step()[0]))
            for number in range(count):
                self.drop(number)
            count *= 2

    def _computed(self, inputs: Any, due: int) -> torch.Tensor:
        given = dict(inputs.get_model_kwargs(use_padding=True))
        given["logits_to_keep"] = given["logits_indices"]

        def forward() -> None:
            logits = self._model(**given).logits[0]
            self._logits[: len(logits)].copy_(logits)

        self._run((inputs.num_q_tokens, inputs.max_kv_read), forward, inputs.compute_stream)
        return self._logits[:due]

    def _run(self, size: tuple[int, int], forward: Callable[[], None], stream: Any) -> None:
        """Computes `forward` by the graph of its size; records that if there is none yet."""
        stream.wait_stream(torch.cuda.current_stream())
        graph = self._graphs.get(size)
        with torch.cuda.stream(stream):
            if graph is not None:
                graph.replay()
            else:
                # What is recorded is not computed, and libraries make their workspaces at first.
                forward()
        if graph is None and self._is_graphed:
            self._record(size, forward, stream)
        torch.cuda.current_stream().wait_stream(stream)

    def _record(self, size: tuple[int, int], forward: Callable[[], None], stream: Any) -> None:
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self._graphs.values())).pool() if self._graphs else None
        try:
            with torch.cuda.graph(
                graph, pool=pool, stream=stream, capture_error_mode="thread_local"
            ):
                forward()
        except RuntimeError as wrong:  # such as memory, or a model that looks at its own numbers
            log.warning("steps are computed without CUDA graphs from here on: %s", wrong)
            self._is_graphed = False
            return
        self._graphs[size] = graph
