"""Time of the parts of a step in the `transformers` engine, with random weights.

`python -m benchmarks.transformers_steps` makes the model of `benchmarks.transformers_engine`, runs
the engine in this process, and measures the parts of each step: preparation of the batch
(transformers), computation, sampling, and output. It waits for the device after the computation, so
the parts add up to slightly more than a step normally takes. Needs the extra `transformers`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.transformers_engine import CONTEXT, END, SIZES, SLOTS, make_model, prompt
from maas.domain.generation import Generation, Piece
from maas.domain.standard_signatures import text_generation
from maas.runtimes.base import EngineEvent, LoadRequest
from maas.runtimes.catalog import create_generator
from maas.runtimes.transformers import engine as engine_module

PARTS = ("preparation", "computation", "sampling", "put", "output and rest")


class Times:
    """Seconds of each step, by part."""

    def __init__(self, model: Any) -> None:
        self.steps: list[dict[str, float]] = []
        self._now = dict.fromkeys(PARTS, 0.0)
        batch = model._batch
        processor = batch._processor
        processor.prepare_next_batch = self._timed("preparation", processor.prepare_next_batch)
        batch._computed = self._timed("computation", batch._computed, waits=True)
        batch.put = self._timed("put", batch.put)
        sample = self._timed("sampling", vars(engine_module)["sample"])
        vars(engine_module)["sample"] = sample
        model._step = self._whole(model._step)

    def _timed(self, part: str, call: Callable[..., Any], *, waits: bool = False) -> Any:
        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = call(*arguments)
            if waits and torch.cuda.is_available():
                torch.cuda.synchronize()
            self._now[part] += time.perf_counter() - start
            return result

        return timed

    def _whole(self, call: Callable[[], None]) -> Any:
        def timed() -> None:
            self._now = dict.fromkeys(PARTS, 0.0)
            start = time.perf_counter()
            call()
            rest = time.perf_counter() - start - sum(self._now.values())
            self.steps.append(self._now | {"output and rest": rest})

        return timed


def load(folder: Path) -> Any:
    model = create_generator("transformers")
    files = {file.name: file for file in folder.iterdir()}
    options = {"context_length": CONTEXT, "cache_tokens": SLOTS * CONTEXT // 4}
    model.load(LoadRequest({}, text_generation(), 2, options, files, SLOTS))
    return model


def generate(model: Any, count: int, first: int, tokens: int) -> None:
    """Generates `count` texts concurrently."""
    ended = threading.Semaphore(0)

    def sink(_: int, event: EngineEvent) -> None:
        if not isinstance(event, Piece):
            ended.release()

    for number in range(first, first + count):
        generation = Generation(
            prompt=prompt(number, 64), max_tokens=tokens, temperature=0, logit_bias={END: -100.0}
        )
        model.start(number, generation, sink)
    for _ in range(count):
        ended.acquire()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", choices=list(SIZES), default="1b")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 16, 64])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="b") as scratch:
        make_model(Path(scratch), options.size)
        model = load(Path(scratch))
        times, first = Times(model), 1
        print(f"| concurrent | {' | '.join(f'{part}, ms' for part in PARTS)} | step, ms |")
        print("|---" * (len(PARTS) + 2) + "|")
        for count in options.concurrency:
            for _ in range(2):  # the first run warms up pages and caches
                times.steps.clear()
                generate(model, count, first, options.tokens)
                first += count
            rows = [1e3 * statistics.median(step[part] for step in times.steps) for part in PARTS]
            whole = 1e3 * statistics.median(sum(step.values()) for step in times.steps)
            print(f"| {count} | {' | '.join(f'{row:.2f}' for row in rows)} | {whole:.2f} |")
        model.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
