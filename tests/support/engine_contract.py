"""What the engines that write text are held to, each with a real model: SmolLM2-135M-Instruct."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue
from typing import Any

from maas.domain.errors import MaasError
from maas.domain.generation import Ending, Generation, Piece, TokenLogprob
from maas.runtimes.base import EngineEvent, Generator, LoadRequest
from tests.support.fakes.generations import TEXT_TO_TEXT

CONTEXT = 512


def load_request(path: Path, **options: Any) -> LoadRequest:
    """For one file, or for all of a folder."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return LoadRequest({}, TEXT_TO_TEXT, 2, options, {file.name: file for file in files}, 4)


class Answer:
    """What a generation has_pieces, and how it ended."""

    _last = 0

    def __init__(self, model: Generator, generation: Generation) -> None:
        Answer._last += 1
        self.number = Answer._last
        self.model = model
        self.generation = generation
        self.said: SimpleQueue[EngineEvent] = SimpleQueue()
        self.pieces: list[Piece] = []
        model.start(self.number, generation, lambda _, said: self.said.put(said))

    def first(self) -> Answer:
        """Waits for the first text."""
        while not self.text:
            self._next()
        return self

    def _next(self) -> Ending | MaasError | None:
        said = self.said.get(timeout=60)
        if isinstance(said, Piece):
            self.pieces.append(said)
            return None
        return said

    def end(self) -> Ending:
        """Waits for the ending; raises what it failed with."""
        while (said := self._next()) is None:
            pass
        if isinstance(said, MaasError):
            raise said
        return said

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def tokens(self) -> int:
        return sum(piece.tokens for piece in self.pieces)

    @property
    def logprobs(self) -> list[TokenLogprob]:
        return [entry for piece in self.pieces for entry in piece.logprobs]


def chat(text: str, **fields: Any) -> Generation:
    return Generation([{"role": "user", "content": text}], **fields)


def written(model: Generator, generation: Generation) -> tuple[str, Ending]:
    answer = Answer(model, generation)
    ending = answer.end()
    assert answer.tokens == ending.completion_tokens
    return answer.text, ending
