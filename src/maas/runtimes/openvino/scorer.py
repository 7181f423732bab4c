"""How likely a text is to OpenVINO GenAI: prompts with echo, which tell it of every token."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

import numpy as np

from maas.domain.errors import InferenceFailed, MaasError
from maas.domain.generation import Ending, Generation
from maas.runtimes.base import EngineEvent, LoadRequest, Scorer
from maas.runtimes.openvino.engine import OpenVino

PATIENCE_S = 600.0
FIRST_NUMBER = 1 << 40
"""Numbers of sequences that no caller of the same engine has."""


class OpenVinoScorer(OpenVino, Scorer):
    """`OpenVino` that reads a text when it has loaded, and scores texts."""

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
        # One after the other: with several, echoes of one are lost where the engine splits them.
        return [self._score(FIRST_NUMBER + at, ids) for at, ids in enumerate(chunks)]

    def _prepare(self, sequence: Any) -> None:
        super()._prepare(sequence)
        if sequence.number >= FIRST_NUMBER:
            sequence.work.config.echo = True
        sequence.work.config.ignore_eos = self.never_ends

    def _score(self, number: int, ids: list[int]) -> list[float]:
        told: SimpleQueue[EngineEvent] = SimpleQueue()
        wanted = Generation(prompt=ids, max_tokens=1, temperature=0.0, logprobs=0)
        self.start(number, wanted, lambda _, said: told.put(said))
        found: list[float] = []
        while not isinstance(said := told.get(timeout=PATIENCE_S), Ending):
            if isinstance(said, MaasError):
                raise said
            found += [entry.logprob for entry in said.logprobs]
        if len(found) < len(ids):
            raise InferenceFailed(f"OpenVINO told how likely {len(found)} of {len(ids)} tokens are")
        return found[1 : len(ids)]
