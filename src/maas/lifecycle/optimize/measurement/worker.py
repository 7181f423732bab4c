"""Process that runs one candidate: loads it as a replica does, runs it and measures the time.

    python -m maas.lifecycle.optimize.measurement.worker

Messages are exchanged on stdin and stdout (`worker_messages.py`). A separate process shows how much
memory a candidate needs, and a crash affects that candidate only.
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
"""Largest number of calls per turn."""


class LoadedCandidate:
    """A loaded candidate that answers rows."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.runtime: Runtime = create_runtime(spec["runtime"])
        files = {name: Path(path).read_bytes() for name, path in spec["files"].items()}
        self.signature = Signature.from_dict(spec["signature"])
        self.runtime.load(LoadRequest(files, self.signature, spec["threads"], spec["options"]))
        self.takes_bytes = self.runtime.takes_bytes
        self.inputs = self._elements(unpacked(spec["inputs"]))
        self.rows = len(next(iter(self.inputs.values())))
        self.next_row = 0

    def turn(self, batch: int, seconds: float, least: int) -> dict[str, Any]:
        """Calls for `seconds`, each with the next rows, and at least `least` of them."""
        calls = [self._next_rows(batch) for _ in range(min(16, max(1, self.rows // batch)))]
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

    def outputs(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Every output of the signature as [n, …], outside of any measurement."""
        outputs = self.runtime.predict(self._elements(inputs))
        return {spec.name: outputs[spec.name] for spec in self.signature.outputs}

    def _next_rows(self, batch: int) -> dict[str, Array]:
        rows = np.arange(self.next_row, self.next_row + batch) % self.rows
        self.next_row = (self.next_row + batch) % self.rows
        return {name: np.ascontiguousarray(array[rows]) for name, array in self.inputs.items()}

    def _elements(self, arrays: dict[str, Array]) -> dict[str, Array]:
        """BYTES in the form that the runtime takes, bytes or str; other arrays unchanged."""
        convert = _to_bytes if self.takes_bytes else _to_text
        converted = dict(arrays)
        for name, array in arrays.items():
            if array.dtype.kind == "O":
                flat = np.empty(array.size, dtype=object)
                flat[:] = [convert(value) for value in array.ravel()]
                converted[name] = flat.reshape(array.shape)
        return converted


def _to_bytes(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value


def _to_text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def main() -> int:
    return serve(LoadedCandidate, handle)


def serve(
    load: Callable[[dict[str, Any]], Any], handle: Callable[[Any, dict[str, Any]], dict[str, Any]]
) -> int:
    """Loads the candidate that the first message describes, then answers all other messages."""
    # Libraries may print to stdout, so it is redirected and messages use a duplicate.
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
            send(answers, handle(loaded, message))
    except MaasError as error:
        send(answers, {"problem": error.to_problem()})
        return 1
    except Exception as error:
        log.exception("the candidate failed")
        send(answers, {"problem": {"detail": f"{type(error).__name__}: {error}"[:1000]}})
        return 1
    return 0


def handle(loaded: LoadedCandidate, message: dict[str, Any]) -> dict[str, Any]:
    if message["do"] == "turn":
        return loaded.turn(message["batch"], message["seconds"], message["least"])
    if message["do"] == "predict":
        return {"outputs": packed(loaded.outputs(unpacked(message["inputs"])))}
    # The rows belong to the measurement, not to the candidate.
    rows = sum(array.nbytes for array in loaded.inputs.values())
    return {"resident": psutil.Process().memory_info().rss - rows, "cpu": time.process_time_ns()}


if __name__ == "__main__":
    sys.exit(main())
