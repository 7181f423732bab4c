"""The process that runs one candidate: loads it as a replica does, runs it and takes the time.

    python -m maas.lifecycle.optimize.measurement.worker

Messages on stdin and stdout, see `wire.py`. A process of its own shows what memory a candidate
needs, and takes nobody with it if a candidate crashes.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import psutil

from maas.domain.errors import MaasError
from maas.domain.signature import Signature
from maas.lifecycle.optimize.measurement.worker_messages import packed, receive, send, unpacked
from maas.lifecycle.optimize.results import Array
from maas.runtimes.base import LoadRequest, Runtime
from maas.runtimes.catalog import create_runtime

log = logging.getLogger(__name__)
MOST_CALLS = 20_000
"""Of one turn."""


class LoadedCandidate:
    """One candidate that answers."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.runtime: Runtime = create_runtime(spec["runtime"])
        files = {name: Path(path).read_bytes() for name, path in spec["files"].items()}
        self.signature = Signature.from_dict(spec["signature"])
        self.runtime.load(LoadRequest(files, self.signature, spec["threads"], spec["options"]))
        self.as_bytes = self.runtime.takes_bytes
        self.inputs = {n: self._elements(a) for n, a in unpacked(spec["inputs"]).items()}
        self.rows = len(next(iter(self.inputs.values())))
        self.next = 0

    def turn(self, batch: int, seconds: float, least: int) -> dict[str, Any]:
        """Calls for `seconds`, each with other rows, at least `least` of them."""
        calls = [self._rows(batch) for _ in range(min(16, max(1, self.rows // batch)))]
        durations: list[int] = []
        cpu = time.process_time_ns()
        end = time.perf_counter_ns() + int(seconds * 1e9)
        while len(durations) < MOST_CALLS:
            inputs = calls[len(durations) % len(calls)]
            start = time.perf_counter_ns()
            self.runtime.predict(inputs)
            now = time.perf_counter_ns()
            durations.append(now - start)
            if now >= end and len(durations) >= least:
                break
        return {"durations": durations, "cpu": time.process_time_ns() - cpu}

    def answer(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Every output of the signature, [n, …], for rows that are no part of a measurement."""
        given = {name: self._elements(array) for name, array in inputs.items()}
        outputs = self.runtime.predict(given)
        return {spec.name: outputs[spec.name] for spec in self.signature.outputs}

    def _rows(self, batch: int) -> dict[str, Array]:
        at = np.arange(self.next, self.next + batch) % self.rows
        self.next = (self.next + batch) % self.rows
        return {name: np.ascontiguousarray(array[at]) for name, array in self.inputs.items()}

    def _elements(self, array: Array) -> Array:
        """BYTES as this runtime takes them: bytes, or text."""
        if array.dtype.kind != "O":
            return array
        out = np.empty(array.size, dtype=object)
        for index, value in enumerate(array.ravel()):
            if self.as_bytes:
                out[index] = value.encode() if isinstance(value, str) else value
            else:
                out[index] = value.decode() if isinstance(value, bytes) else value
        return out.reshape(array.shape)


def main() -> int:
    return serve(LoadedCandidate, handle)


def serve(
    load: Callable[[dict[str, Any]], Any], answer: Callable[[Any, dict[str, Any]], dict[str, Any]]
) -> int:
    """Loads what the first message says and answers the others, until there are none."""
    # Libraries write on stdout whatever they like; the messages go where they do not.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests: BinaryIO = sys.stdin.buffer
    first = receive(requests)
    if first is None:
        return 0
    try:
        if first["cpus"] and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, first["cpus"])
        loaded = load(first)
        send(answers, {"ready": True})
        while (message := receive(requests)) is not None:
            send(answers, answer(loaded, message))
    except MaasError as error:
        send(answers, {"problem": error.to_problem()})
        return 1
    except Exception as wrong:
        log.exception("the candidate failed")
        send(answers, {"problem": {"detail": f"{type(wrong).__name__}: {wrong}"[:1000]}})
        return 1
    return 0


def handle(loaded: LoadedCandidate, message: dict[str, Any]) -> dict[str, Any]:
    if message["do"] == "turn":
        return loaded.turn(message["batch"], message["seconds"], message["least"])
    if message["do"] == "answer":
        return {"outputs": packed(loaded.answer(unpacked(message["inputs"])))}
    # The rows are the measurement's, not the candidate's.
    rows = sum(array.nbytes for array in loaded.inputs.values())
    return {"resident": psutil.Process().memory_info().rss - rows, "cpu": time.process_time_ns()}


if __name__ == "__main__":
    sys.exit(main())
