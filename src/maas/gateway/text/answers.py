"""Answers that are collected and sent as one JSON body."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from maas.domain.errors import MaasError
from maas.domain.generation import Ending, Piece, TokenLogprob
from maas.gateway.text.generation import TextRequest

encode_json = msgspec.json.Encoder().encode


@dataclass(slots=True)
class CollectedCall:
    """A tool call, as far as it has been generated."""

    id: str = ""
    name: str = ""
    fragments: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        return "".join(self.fragments)


class ChoiceText:
    """The output of one choice so far."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.reason = ""
        self.stop = ""
        self._calls: dict[int, CollectedCall] = {}

    def add(self, piece: Piece) -> None:
        if piece.text:
            self.texts.append(piece.text)
        self.logprobs += piece.logprobs
        for part in piece.tool_calls:
            call = self._calls.setdefault(part.index, CollectedCall())
            call.id = call.id or part.id
            call.name = call.name or part.name
            call.fragments.append(part.arguments)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def calls(self) -> list[CollectedCall]:
        """The tool calls, ordered by index."""
        return [call for _, call in sorted(self._calls.items())]


class WholeAnswer:
    """Collects the output of all choices and responds once. Subclasses implement `body`."""

    def __init__(self, text_request: TextRequest, choices: int) -> None:
        self.text_request = text_request
        self.choices = [ChoiceText() for _ in range(choices)]

    def write(self, choice: int, piece: Piece) -> None:
        self.choices[choice].add(piece)

    def end_choice(self, choice: int, ending: Ending) -> None:
        self.choices[choice].reason = ending.reason
        self.choices[choice].stop = ending.stop

    def body(self) -> msgspec.Struct:
        raise NotImplementedError

    def end(self) -> None:
        self.text_request.request.respond(200, encode_json(self.body()))

    def fail(self, error: MaasError) -> None:
        self.text_request.request.fail(error)
