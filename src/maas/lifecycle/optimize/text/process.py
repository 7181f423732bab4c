"""A language model in a process of its own, seen from the process that compares and measures."""

from __future__ import annotations

from typing import Any

from maas.domain.signature import Signature
from maas.lifecycle.optimize.measurement.candidate_process import LoadedProcess
from maas.lifecycle.optimize.results import Candidate


class TextProcess(LoadedProcess):
    """A fresh process with the candidate loaded as a replica loads it."""

    def __init__(
        self, candidate: Candidate, signature: Signature, text: str = "", *, timed: bool = True
    ) -> None:
        """With a text, `ids` knows its tokens. Those that are timed have the same cores."""
        told: dict[str, Any] = {"signature": signature.to_dict(), "text": text}
        told |= {} if timed else {"cpus": []}
        super().__init__(candidate, "maas.lifecycle.optimize.text.worker", told)

    def ids(self) -> list[int]:
        return list(self.ask({"do": "ids"})["ids"])

    def scores(self, chunks: list[list[int]]) -> list[list[float]]:
        """Natural logarithms of the probabilities of all but the first token of each chunk."""
        return list(self.ask({"do": "scores", "chunks": chunks})["scores"])

    def answers(self, prompts: list[str], tokens: int) -> list[list[bytes]]:
        """The tokens of greedy answers, at most so many each."""
        return list(self.ask({"do": "answers", "prompts": prompts, "tokens": tokens})["answers"])

    def turn(self, at_once: int, waves: int, tokens: int, seconds: float) -> dict[str, Any]:
        """Waves of `at_once` answers, at least so many and for so long.

        {wall: nanoseconds, cpu: nanoseconds, tokens: of all, durations: nanoseconds of each
        answer, firsts: nanoseconds to the first token of each}"""
        told = {"at_once": at_once, "waves": waves, "tokens": tokens, "seconds": seconds}
        return self.ask({"do": "turn", **told})
