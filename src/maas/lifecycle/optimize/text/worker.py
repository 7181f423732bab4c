"""The process that runs one language model: loads it as a replica does, asks it and takes the time.

    python -m maas.lifecycle.optimize.text.worker

Messages on stdin and stdout, see `wire.py`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psutil

from maas.domain.errors import InferenceFailed, MaasError
from maas.domain.generation import Ending, Generation
from maas.domain.signature import Signature
from maas.lifecycle.optimize.measurement.worker import serve
from maas.runtimes.base import EngineEvent, LoadRequest
from maas.runtimes.catalog import create_scorer

PATIENCE_S = 600.0
WORDS = ("river", "mountain", "copper", "window", "garden", "letter", "engine", "winter")


class LoadedText:
    """One candidate that writes."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.runtime = create_scorer(spec["runtime"], spec["text"])
        signature = Signature.from_dict(spec["signature"])
        paths = {name: Path(path) for name, path in spec["files"].items()}
        self.runtime.load(LoadRequest({}, signature, spec["threads"], spec["options"], paths))
        self.number = 0

    def answer(self, prompt: str, tokens: int) -> list[bytes]:
        """One at a time, so that no other work changes the order of sums."""
        wanted = Generation(max_tokens=tokens, temperature=0.0, logprobs=0, **self._asked(prompt))
        told: SimpleQueue[tuple[int, EngineEvent]] = SimpleQueue()
        self._start(wanted, told)
        written: list[bytes] = []
        while not isinstance(said := self._next(told)[1], Ending):
            written += [bytes(e.bytes or e.token.encode()) for e in said.logprobs]
        return written

    def turn(self, at_once: int, waves: int, tokens: int, seconds: float) -> dict[str, Any]:
        """Waves of `at_once` answers for `seconds`, at least `waves`; all have `tokens` tokens."""
        self.runtime.never_ends = True
        cpu, began = time.process_time_ns(), time.perf_counter_ns()
        durations: list[int] = []
        firsts: list[int] = []
        written = 0
        while len(durations) < waves * at_once or time.perf_counter_ns() - began < seconds * 1e9:
            for took, first, count in self._wave(at_once, tokens):
                durations.append(took)
                firsts.append(first)
                written += count
        self.runtime.never_ends = False
        return {
            "wall": time.perf_counter_ns() - began,
            "cpu": time.process_time_ns() - cpu,
            "tokens": written,
            "durations": durations,
            "firsts": firsts,
        }

    def _wave(self, at_once: int, tokens: int) -> list[tuple[int, int, int]]:
        """(duration, time to the first token, tokens) of each. Who finds no room waits, as in a
        replica, and its time runs."""
        waiting = [self._story(tokens) for _ in range(at_once)]
        told: SimpleQueue[tuple[int, EngineEvent]] = SimpleQueue()
        running: set[int] = set()
        firsts: dict[int, int] = {}
        ends: list[tuple[int, int, int]] = []
        began = time.perf_counter_ns()
        while waiting or running:
            while waiting and len(running) < self.runtime.slots and self._has_room(waiting[-1]):
                running.add(self._start(waiting.pop(), told))
            if not running:
                raise InferenceFailed("there is no room for one short answer")
            number, said = self._next(told)
            now = time.perf_counter_ns() - began
            if isinstance(said, Ending):
                running.remove(number)
                ends.append((now, firsts.get(number, now), said.completion_tokens))
            elif said.tokens or said.text:
                firsts.setdefault(number, now)
        return ends

    def _has_room(self, generation: Generation) -> bool:
        return self.runtime.has_room(generation)

    def _story(self, tokens: int) -> Generation:
        """Another prompt for each, so that nobody profits from work done before."""
        at = self.number + 1
        words = " ".join(WORDS[(at * 7 + n * n) % len(WORDS)] for n in range(4))
        prompt = f"Request {at}. Write a story with these words: {words}."
        return Generation(max_tokens=tokens, temperature=0.0, **self._asked(prompt))

    def _asked(self, prompt: str) -> dict[str, Any]:
        if self.runtime.has_chat_template:
            return {"messages": [{"role": "user", "content": prompt}]}
        return {"prompt": prompt}

    def _start(self, wanted: Generation, told: SimpleQueue[tuple[int, EngineEvent]]) -> int:
        self.number += 1
        self.runtime.start(self.number, wanted, lambda number, said: told.put((number, said)))
        return self.number

    def _next(self, told: SimpleQueue[tuple[int, EngineEvent]]) -> tuple[int, Any]:
        number, said = told.get(timeout=PATIENCE_S)
        if isinstance(said, MaasError):
            raise said
        return number, said


def handle(loaded: LoadedText, message: dict[str, Any]) -> dict[str, Any]:
    do = message["do"]
    if do == "ids":
        return {"ids": loaded.runtime.ids}
    if do == "scores":
        return {"scores": loaded.runtime.scores(message["chunks"])}
    if do == "answers":
        return {"answers": [loaded.answer(p, message["tokens"]) for p in message["prompts"]]}
    if do == "turn":
        return loaded.turn(
            message["at_once"], message["waves"], message["tokens"], message["seconds"]
        )
    return {"resident": psutil.Process().memory_info().rss, "cpu": time.process_time_ns()}


if __name__ == "__main__":
    sys.exit(serve(LoadedText, handle))
