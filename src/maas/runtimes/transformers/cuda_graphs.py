"""A batch whose forward passes are recorded once and replayed: CUDA graphs.

A model of 1 B parameters takes about a thousand small kernels per step; launched one by one from
Python they leave a GPU idle nine tenths of the time. A graph launches them all at once, but only
for tensors of the sizes it was recorded with. So the inputs of a step are padded to one of a few
sizes, and each size is recorded when it first occurs. Padding writes to a page of the cache that is
never read, and reads from one that stays zero (both the library's), behind the mask.
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

_INPUT_GRAIN, _CACHE_GRAIN = 512, 16_384
"""Input tokens of a step, and cached tokens that they attend to, are padded to a power of two, or
above these to a multiple: few sizes for short steps, little waste for long ones."""
_LEAST_CACHE = 1024
MOST_GRAPHS = 64
"""Recorded at most; each has memory of its own in addition to the shared pool."""


def padded(count: int, grain: int) -> int:
    """`count` rounded up to a power of two, or above `grain` to a multiple of it."""
    if count > grain:
        return -(-count // grain) * grain
    return 1 << (count - 1).bit_length()


class CudaGraphBatch(PagedBatch):
    """A PagedBatch on a CUDA device. The next step overwrites the logits of a step."""

    def __init__(self, model: Any, sequences: int, tokens: int, batch: int) -> None:
        super().__init__(model, sequences, tokens, batch)
        self._graphs: OrderedDict[tuple[int, int], Any] = OrderedDict()
        """Graphs by input tokens and cached tokens; the one used last is last."""
        self._is_graphed = True
        self._pool = torch.cuda.graph_pool_handle() if model.device.type == "cuda" else None
        runner = self._processor.model_runner
        runner.pad_inputs = True
        runner.maybe_pad_inputs = self._sizes
        self._sequences = sequences
        self._logits = torch.empty(0, 0, device=model.device)
        self._warm_up()

    def _sizes(self, inputs: int, cached: int, is_decoding: bool) -> tuple[int, int]:
        """The sizes that the library pads a step to: input tokens and cached tokens."""
        if not self._is_graphed:
            return inputs, cached
        cache = self._processor.cache
        # Without cached tokens, the library uses another forward pass, which ignores the cache.
        if cached:
            cached = max(_LEAST_CACHE, padded(cached, _CACHE_GRAIN))
        return (
            min(padded(inputs, _INPUT_GRAIN), cache.max_batch_tokens),
            min(cached, cache.max_tokens_read),
        )

    def _warm_up(self) -> None:
        """Records the first steps of 1, 2, 4, … sequences. Other sizes are recorded on demand."""
        count = 1
        while True:
            for number in range(count):
                self.add(number, [0])
            for _ in range(2):  # a prompt of one token each, then one more token
                self.put([0] * len(self.step()[0]))
            for number in range(count):
                self.drop(number)
            if count == self._sequences:
                return
            count = min(2 * count, self._sequences)

    def _computed(self, inputs: Any, due: int) -> torch.Tensor:
        arguments = dict(inputs.get_model_kwargs(use_padding=True))
        arguments["logits_to_keep"] = arguments["logits_indices"]

        def forward() -> None:
            logits = self._model(**arguments).logits[0]
            if not self._logits.numel():  # the very first pass, which is not recorded
                self._logits = logits.new_empty(
                    (self._sequences, logits.shape[1]), dtype=torch.float32
                )
            self._logits[: len(logits)].copy_(logits)

        self._run((inputs.num_q_tokens, inputs.max_kv_read), forward, inputs.compute_stream)
        return self._logits[:due]

    def _run(self, size: tuple[int, int], forward: Callable[[], None], stream: Any) -> None:
        """Computes `forward` with the graph of its size, which is recorded if there is none yet."""
        # Streams belong to the device of this thread, which may not be the model's.
        with torch.cuda.device(self._model.device):
            main = torch.cuda.current_stream()
            stream.wait_stream(main)
            graph = self._graphs.get(size)
            with torch.cuda.stream(stream):
                if graph is not None:
                    self._graphs.move_to_end(size)
                    graph.replay()
                else:
                    self._compute(forward)
            if graph is None and self._is_graphed:
                with torch.cuda.stream(main):  # a failed recording leaves another stream
                    self._record(size, forward, stream)
            main.wait_stream(stream)

    def _compute(self, forward: Callable[[], None]) -> None:
        """Computes without a graph: recording does not compute, and libraries allocate workspaces
        on first use. If memory runs out, all graphs are released."""
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
            return  # no graph for this size
        except RuntimeError as wrong:  # such as a model with data-dependent control flow
            log.warning("steps are computed without CUDA graphs: %s", wrong)
            self._is_graphed = False
            self._graphs.clear()
            # The allocator would stay in recording mode, in which it releases nothing.
            if self._pool is not None:
                with contextlib.suppress(RuntimeError):
                    torch._C._cuda_endAllocateToPool(self._model.device.index, self._pool)
            return
        self._graphs[size] = graph
        if len(self._graphs) > MOST_GRAPHS:
            torch.cuda.synchronize()
            self._graphs.popitem(last=False)
