"""Log-probabilities of a text under a model, with OpenVINO GenAI: prompts with `echo`."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

import numpy as np

from maas.domain.errors import InferenceFailed, MaasError
from maas.domain.generation import Ending, Generation
from maas.runtimes.base import EngineEvent, LoadRequest, Scorer
from maas.runtimes.openvino.engine import OpenVino

TIMEOUT_S = 600.0
FIRST_NUMBER = 1 << 40
"""Sequence numbers from here on are used by the scorer only."""


class OpenVinoScorer(OpenVino, Scorer):
    """`OpenVino` that tokenizes a text once it has loaded, and scores texts."""

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self.ids: list[int] = []
        self.never_ends = False
        self._text = text

    def load(self, request: LoadRequest) -> None:
        super().load(request)
        if self._text:
            encoded = self._tokenizer.encode(self._text, add_special_tokens=True)
            self.ids = [int(n) for n in np.array(encoded.input_ids.data).reshape(-1)]

    def scores(self, chunks: list[list[int]]) -> list[list[float]]:
        # One at a time: with several, parts of an echo are lost where the engine splits prompts.
        return [self._score(FIRST_NUMBER + at, ids) for at, ids in enumerate(chunks)]

    def _prepare(self, sequence: Any) -> None:
        super()._prepare(sequence)
        if sequence.number >= FIRST_NUMBER:
            sequence.work.config.echo = True
        sequence.work.config.ignore_eos = self.never_ends

    def _score(self, number: int, ids: list[int]) -> list[float]:
        events: SimpleQueue[EngineEvent] = SimpleQueue()
        generation = Generation(prompt=ids, max_tokens=1, temperature=0.0, logprobs=0)
        self.start(number, generation, lambda _, event: events.put(event))
        values: list[float] = []
        while not isinstance(event := events.get(timeout=TIMEOUT_S), Ending):
            if isinstance(event, MaasError):
                raise event
            values += [entry.logprob for entry in event.logprobs]
        if len(values) < len(ids):
            raise InferenceFailed(
                f"OpenVINO gave the probabilities of {len(values)} of {len(ids)} tokens"
            )
        return values[1 : len(ids)]
