"""The bookkeeping that engines share: running sequences and the KV cache reserved for them."""

from __future__ import annotations

from typing import Generic, TypeVar

from maas.domain.generation import Generation
from maas.runtimes.base import Generator
from maas.runtimes.text.options import Reserving, most_tokens
from maas.runtimes.text.vocabulary import Vocabulary

S = TypeVar("S", bound=Reserving)


class TextEngine(Generator, Generic[S]):
    """An engine that keeps each sequence from `start` until its sink has the last event."""

    def __init__(self) -> None:
        self.context_length = 0
        self.slots = 1
        self.has_chat_template = False
        self._pool = 0
        """Tokens of the KV cache that all sequences of clients share."""
        self._vocabulary = Vocabulary()
        self._sequences: dict[int, S] = {}

    def has_room(self, generation: Generation) -> bool:
        return self._reserved() + self._most_tokens(generation) <= self._pool

    def cancel(self, number: int) -> None:
        sequence = self._sequences.get(number)
        if sequence is not None:
            sequence.is_cancelled = True

    def _cancel_all(self) -> None:
        for sequence in list(self._sequences.values()):
            sequence.is_cancelled = True

    def _reserved(self) -> int:
        """Tokens of the KV cache that are reserved for sequences."""
        return sum(sequence.reserved for sequence in list(self._sequences.values()))

    def _most_tokens(self, generation: Generation) -> int:
        return most_tokens(generation, self.context_length, self._vocabulary.openers)
