"""Helpers for tests of engines with a real model: SmolLM2-135M-Instruct."""

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
    """A request to load a file, or all files of a folder."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return LoadRequest({}, TEXT_TO_TEXT, 2, options, {file.name: file for file in files}, 4)


class Answer:
    """The output of a generation, and its ending."""

    _last = 0

    def __init__(self, model: Generator, generation: Generation) -> None:
        Answer._last += 1
        self.number = Answer._last
        self.model = model
        self.generation = generation
        self.events: SimpleQueue[EngineEvent] = SimpleQueue()
        self.pieces: list[Piece] = []
        model.start(self.number, generation, lambda _, event: self.events.put(event))

    def first(self) -> Answer:
        """Waits for the first text and returns itself."""
        while not self.text:
            self._next()
        return self

    def _next(self) -> Ending | MaasError | None:
        event = self.events.get(timeout=60)
        if isinstance(event, Piece):
            self.pieces.append(event)
            return None
        return event

    def end(self) -> Ending:
        """Waits for the ending. Raises the error if there is one."""
        while (event := self._next()) is None:
            pass
        if isinstance(event, MaasError):
            raise event
        return event

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


def complete(model: Generator, generation: Generation) -> tuple[str, Ending]:
    """The whole text of a generation, and its ending."""
    answer = Answer(model, generation)
    ending = answer.end()
    assert answer.tokens == ending.completion_tokens
    return answer.text, ending
