"""Client side of the processes that each run one language model."""

from __future__ import annotations

from typing import Any

from maas.domain.signature import Signature
from maas.lifecycle.optimize.measurement.candidate_process import LoadedProcess
from maas.lifecycle.optimize.results import Candidate


class TextProcess(LoadedProcess):
    """Process of a candidate that generates text."""

    def __init__(
        self, candidate: Candidate, signature: Signature, text: str = "", *, timed: bool = True
    ) -> None:
        """`text` is the one that `ids` returns the tokens of.

        Processes that are timed run on the same cores, others on all cores.
        """
        settings: dict[str, Any] = {"signature": signature.to_dict(), "text": text}
        if not timed:
            settings["cpus"] = []
        super().__init__(candidate, "maas.lifecycle.optimize.text.worker", settings)

    def ids(self) -> list[int]:
        """Token ids of the text."""
        return list(self.request({"do": "ids"})["ids"])

    def scores(self, chunks: list[list[int]]) -> list[list[float]]:
        """Natural logarithms of the probabilities of all but the first token of each chunk."""
        return list(self.request({"do": "scores", "chunks": chunks})["scores"])

    def answers(self, prompts: list[str], tokens: int) -> list[list[bytes]]:
        """Tokens of the greedy answer to each prompt, at most `tokens` each."""
        message = {"do": "answers", "prompts": prompts, "tokens": tokens}
        return list(self.request(message)["answers"])

    def turn(self, concurrency: int, waves: int, tokens: int, seconds: float) -> dict[str, Any]:
        """Waves of concurrent answers with `tokens` tokens, at least `waves`, for `seconds`.

        {wall: nanoseconds, cpu: nanoseconds, tokens: of all answers, durations: nanoseconds of each
        answer, firsts: nanoseconds to the first token of each answer}
        """
        return self.request(
            {
                "do": "turn",
                "concurrency": concurrency,
                "waves": waves,
                "tokens": tokens,
                "seconds": seconds,
            }
        )
