"""Process that runs one language model: loads it as a replica does, and measures its answers.

    python -m maas.lifecycle.optimize.text.worker

Messages are exchanged on stdin and stdout (`measurement/worker_messages.py`).
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

EVENT_TIMEOUT_S = 600.0
WORDS = ("river", "mountain", "copper", "window", "garden", "letter", "engine", "winter")

Events = SimpleQueue[tuple[int, EngineEvent]]
"""Events of the engine with the number of the request."""


class LoadedText:
    """A loaded candidate that generates text."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.runtime = create_scorer(spec["runtime"], spec["text"])
        signature = Signature.from_dict(spec["signature"])
        paths = {name: Path(path) for name, path in spec["files"].items()}
        self.runtime.load(LoadRequest({}, signature, spec["threads"], spec["options"], paths))
        self.number = 0
        """Number of the latest request."""

    def answer(self, prompt: str, tokens: int) -> list[bytes]:
        """Tokens of the greedy answer.

        Answers are generated one at a time, because concurrent work changes the order of sums.
        """
        inputs = self._inputs(prompt)
        generation = Generation(max_tokens=tokens, temperature=0.0, logprobs=0, **inputs)
        events: Events = SimpleQueue()
        self._start(generation, events)
        answer: list[bytes] = []
        while not isinstance(event := _next_event(events)[1], Ending):
            answer += [bytes(e.bytes or e.token.encode()) for e in event.logprobs]
        return answer

    def turn(self, concurrency: int, waves: int, tokens: int, seconds: float) -> dict[str, Any]:
        """At least `waves` waves of answers with `tokens` tokens each, for at least `seconds`."""
        self.runtime.never_ends = True
        cpu, start = time.process_time_ns(), time.perf_counter_ns()
        durations: list[int] = []
        firsts: list[int] = []
        total = 0
        least = waves * concurrency
        while len(durations) < least or time.perf_counter_ns() - start < seconds * 1e9:
            for duration, first, count in self._wave(concurrency, tokens):
                durations.append(duration)
                firsts.append(first)
                total += count
        self.runtime.never_ends = False
        return {
            "wall": time.perf_counter_ns() - start,
            "cpu": time.process_time_ns() - cpu,
            "tokens": total,
            "durations": durations,
            "firsts": firsts,
        }

    def _wave(self, concurrency: int, tokens: int) -> list[tuple[int, int, int]]:
        """(duration, time to the first token, tokens) of each answer; times in nanoseconds.

        Requests wait for free slots as in a replica, and the waiting time counts.
        """
        waiting = [self._story(tokens) for _ in range(concurrency)]
        events: Events = SimpleQueue()
        running: set[int] = set()
        firsts: dict[int, int] = {}
        results: list[tuple[int, int, int]] = []
        start = time.perf_counter_ns()
        while waiting or running:
            while waiting and self._has_room(waiting[-1], len(running)):
                running.add(self._start(waiting.pop(), events))
            if not running:
                raise InferenceFailed("the engine has no room for one short answer")
            number, event = _next_event(events)
            elapsed = time.perf_counter_ns() - start
            if isinstance(event, Ending):
                running.remove(number)
                results.append((elapsed, firsts.get(number, elapsed), event.completion_tokens))
            elif event.tokens or event.text:
                firsts.setdefault(number, elapsed)
        return results

    def _has_room(self, generation: Generation, running: int) -> bool:
        return running < self.runtime.slots and self.runtime.has_room(generation)

    def _story(self, tokens: int) -> Generation:
        """A request with a prompt of its own, so that no cached prefix can be reused."""
        number = self.number + 1
        words = " ".join(WORDS[(number * 7 + n * n) % len(WORDS)] for n in range(4))
        prompt = f"Request {number}. Write a story with these words: {words}."
        return Generation(max_tokens=tokens, temperature=0.0, **self._inputs(prompt))

    def _inputs(self, prompt: str) -> dict[str, Any]:
        """The prompt as a chat message if the model has a chat template."""
        if self.runtime.has_chat_template:
            return {"messages": [{"role": "user", "content": prompt}]}
        return {"prompt": prompt}

    def _start(self, generation: Generation, events: Events) -> int:
        self.number += 1
        self.runtime.start(
            self.number, generation, lambda number, event: events.put((number, event))
        )
        return self.number


def _next_event(events: Events) -> tuple[int, Any]:
    """The next event. Raises it if it is an error."""
    number, event = events.get(timeout=EVENT_TIMEOUT_S)
    if isinstance(event, MaasError):
        raise event
    return number, event


def handle(loaded: LoadedText, message: dict[str, Any]) -> dict[str, Any]:
    do = message["do"]
    if do == "ids":
        return {"ids": loaded.runtime.ids}
    if do == "scores":
        return {"scores": loaded.runtime.scores(message["chunks"])}
    if do == "answers":
        tokens = message["tokens"]
        return {"answers": [loaded.answer(prompt, tokens) for prompt in message["prompts"]]}
    if do == "turn":
        return loaded.turn(
            message["concurrency"], message["waves"], message["tokens"], message["seconds"]
        )
    return {"resident": psutil.Process().memory_info().rss, "cpu": time.process_time_ns()}


if __name__ == "__main__":
    sys.exit(serve(LoadedText, handle))
