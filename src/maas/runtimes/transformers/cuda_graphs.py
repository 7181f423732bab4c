"""A batch whose forward passes are recorded once and replayed: CUDA graphs.

A model of 1 B parameters is about a thousand small kernels a step; started one by one from Python
they keep a GPU waiting nine tenths of the time. A graph starts them all at once, but only for
tensors of the sizes it was recorded with. So what a step reads is padded to one of few sizes, and
each size is recorded when it is first met. Padding writes to a page of the cache that nobody reads,
and reads from one that stays zero (both the library's), behind the mask.
https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

from maas.runtimes.transformers.paged_batch import PagedBatch

log = logging.getLogger(__name__)

_READ_GRAIN, _CACHE_GRAIN = 512, 16_384
"""Tokens read in a step, and those of the cache they look at, are padded to a power of two, above
these to a multiple: few sizes where a step is short, little waste where it is long."""
_LEAST_CACHE = 1024
MOST_GRAPHS = 64
"""That are kept; each has memory of its own beside what they share."""


def padded(count: int, grain: int) -> int:
    """The smallest power of two that is at least `count`, or multiple of `grain` above that."""
    if count > grain:
        return -(-count // grain) * grain
    return 1 << (count - 1).bit_length()


class CudaGraphBatch(PagedBatch):
    """A PagedBatch on a CUDA device. Its logits lie where the next step writes its own."""

    def __init__(self, model: Any, sequences: int, tokens: int, batch: int) -> None:
        super().__init__(model, sequences, tokens, batch)
        self._graphs: OrderedDict[tuple[int, int], Any] = OrderedDict()
        """By tokens read and of the cache; the one used last is last."""
        self._is_graphed = True
        self._pool = torch.cuda.graph_pool_handle() if model.device.type == "cuda" else None
        runner = self._processor.model_runner
        runner.pad_inputs = True
        runner.maybe_pad_inputs = self._sizes
        self._sequences = sequences
        self._logits = torch.empty(0, 0, device=model.device)
        self._warm_up()

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

    def _warm_up(self) -> None:
        """Records the steps of sequences that begin. Others are recorded when they come."""
        count = 1
        while True:
            for number in range(count):
                self.add(number, [0])
            for _ in range(2):  # a prompt of one token each, and a token after it
                self.put([0] * len(self.step()[0]))
            for number in range(count):
                self.drop(number)
            if count == self._sequences:
                return
            count = min(2 * count, self._sequences)

    def _computed(self, inputs: Any, due: int) -> torch.Tensor:
        given = dict(inputs.get_model_kwargs(use_padding=True))
        given["logits_to_keep"] = given["logits_indices"]

        def forward() -> None:
            logits = self._model(**given).logits[0]
            if not self._logits.numel():  # the first of all, which is not recorded
                self._logits = logits.new_empty(
                    (self._sequences, logits.shape[1]), dtype=torch.float32
                )
            self._logits[: len(logits)].copy_(logits)

        self._run((inputs.num_q_tokens, inputs.max_kv_read), forward, inputs.compute_stream)
        return self._logits[:due]

    def _run(self, size: tuple[int, int], forward: Callable[[], None], stream: Any) -> None:
        """Computes `forward` by the graph of its size; records that if there is none yet."""
        # Streams are those of the device of this thread, which need not be the model's.
        with torch.cuda.device(self._model.device):
            usual = torch.cuda.current_stream()
            stream.wait_stream(usual)
            graph = self._graphs.get(size)
            with torch.cuda.stream(stream):
                if graph is not None:
                    self._graphs.move_to_end(size)
                    graph.replay()
                else:
                    self._compute(forward)
            if graph is None and self._is_graphed:
                with torch.cuda.stream(usual):  # what fails to be recorded leaves another
                    self._record(size, forward, stream)
            usual.wait_stream(stream)

    def _compute(self, forward: Callable[[], None]) -> None:
        """Once without a graph: what is recorded is not computed, and libraries make their
        workspaces at first use. Graphs give way to a step that lacks their memory."""
        try:
            forward()
        except torch.OutOfMemoryError:
            if not self._graphs:
                raise
            torch.cuda.synchronize()
            self._graphs.clear()
            torch.cuda.empty_cache()
            forward()

    def _record(self, size: tuple[int, int], forward: Callable[[], None], stream: Any) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(
                graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
            ):
                forward()
        except torch.OutOfMemoryError:
            return  # this size goes without
        except RuntimeError as wrong:  # such as a model that looks at its own numbers
            log.warning("steps are computed without CUDA graphs: %s", wrong)
            self._is_graphed = False
            self._graphs.clear()
            # The allocator still takes it for a recording, during which nothing is given back.
            if self._pool is not None:
                with contextlib.suppress(RuntimeError):
                    torch._C._cuda_endAllocateToPool(self._model.device.index, self._pool)
            return
        self._graphs[size] = graph
        if len(self._graphs) > MOST_GRAPHS:
            torch.cuda.synchronize()
            self._graphs.popitem(last=False)
