"""The engine `transformers`: where the time of a step goes, with a randomly initialized model.

`python -m benchmarks.transformers_steps` makes the model of `benchmarks.transformers_engine`, runs
the engine in this process with nobody to tell, and times the parts of each step: making the batch
ready (transformers), computing it, choosing tokens, telling. A device is waited for behind the
computing, so the parts add up to a little more than a step takes otherwise. Needs the extra
`transformers`.
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
from maas.domain.signatures import text_generation
from maas.runtimes.base import EngineEvent, LoadRequest
from maas.runtimes.catalog import create_generator
from maas.runtimes.transformers import engine as engine

PARTS = ("made ready", "computed", "chosen", "put", "told and the rest")


class Times:
    """Of each step, by part, in seconds."""

    def __init__(self, model: Any) -> None:
        self.steps: list[dict[str, float]] = []
        self._now = dict.fromkeys(PARTS, 0.0)
        batch = model._batch
        processor = batch._processor
        processor.prepare_next_batch = self._timed("made ready", processor.prepare_next_batch)
        batch._computed = self._timed("computed", batch._computed, waits=True)
        batch.put = self._timed("put", batch.put)
        engine.choose = self._timed("chosen", engine.choose)
        model._step = self._whole(model._step)

    def _timed(self, part: str, call: Callable[..., Any], *, waits: bool = False) -> Any:
        def timed(*given: Any) -> Any:
            began = time.perf_counter()
            result = call(*given)
            if waits and torch.cuda.is_available():
                torch.cuda.synchronize()
            self._now[part] += time.perf_counter() - began
            return result

        return timed

    def _whole(self, call: Callable[[], None]) -> Any:
        def timed() -> None:
            self._now = dict.fromkeys(PARTS, 0.0)
            began = time.perf_counter()
            call()
            rest = time.perf_counter() - began - sum(self._now.values())
            self.steps.append(self._now | {"told and the rest": rest})

        return timed


def load(folder: Path) -> Any:
    model = create_generator("transformers")
    files = {file.name: file for file in folder.iterdir()}
    options = {"context_length": CONTEXT, "cache_tokens": SLOTS * CONTEXT // 4}
    model.load(LoadRequest({}, text_generation(), 2, options, files, SLOTS))
    return model


def write(model: Any, count: int, first: int, tokens: int) -> None:
    """`count` texts at once."""
    ended = threading.Semaphore(0)

    def sink(_: int, said: EngineEvent) -> None:
        if not isinstance(said, Piece):
            ended.release()

    for number in range(first, first + count):
        asked = Generation(
            prompt=prompt(number, 64), max_tokens=tokens, temperature=0, logit_bias={END: -100.0}
        )
        model.start(number, asked, sink)
    for _ in range(count):
        ended.acquire()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", choices=list(SIZES), default="1b")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 16, 64])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="b") as scratch:
        make_model(Path(scratch), given.size)
        model = load(Path(scratch))
        times, first = Times(model), 1
        print(f"| at once | {' | '.join(f'{part}, ms' for part in PARTS)} | step, ms |")
        print("|---" * (len(PARTS) + 2) + "|")
        for count in given.concurrency:
            for _ in range(2):  # the first finds pages and caches cold
                times.steps.clear()
                write(model, count, first, given.tokens)
                first += count
            rows = [1e3 * statistics.median(step[part] for step in times.steps) for part in PARTS]
            whole = 1e3 * statistics.median(sum(step.values()) for step in times.steps)
            print(f"| {count} | {' | '.join(f'{row:.2f}' for row in rows)} | {whole:.2f} |")
        model.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
