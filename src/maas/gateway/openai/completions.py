"""`POST /v1/completions`: OpenAI's older door, which continues a text as it is."""

from __future__ import annotations

from typing import Any

from maas.domain.errors import MaasError
from maas.domain.generation import Ending, Piece, TokenLogprob
from maas.gateway.http.request import Request
from maas.gateway.openai.answers import UNLIKELY, StreamedAnswer, WholeAnswer, stamp, usage_of
from maas.gateway.openai.request import ParsedRequest, completions_of, named_model
from maas.gateway.text.generation import TextRequest, TextService

OPERATION = "completions"
KIND = "text_completion"


class CompletionsHandler:
    def __init__(self, desk: TextService) -> None:
        self._desk = desk

    def handle(self, request: Request) -> None:
        """Raises MalformedBody; other failures are counted and answered."""
        model, body = named_model(request.body)
        try:
            model, asked, said = completions_of(body)
            writing = TextRequest(self._desk, request, self._desk.target(model), OPERATION)
        except MaasError as error:
            self._desk.refused(request, OPERATION, model, error)
            return
        teller = (_Stream if asked.stream else _Whole)(writing, model, asked, said.echo)
        writing.start(teller, asked.generations, asked.per_prompt)


def _echoes(asked: ParsedRequest, echo: bool) -> list[str]:
    """What stands before each choice."""
    return [g.prompt if echo and isinstance(g.prompt, str) else "" for g in asked.generations]


class _Whole(WholeAnswer):
    def __init__(self, writing: TextRequest, model: str, asked: ParsedRequest, echo: bool) -> None:
        super().__init__(writing, len(asked.generations))
        self._model = model
        self._logprobs = asked.generations[0].logprobs is not None
        self._echoes = _echoes(asked, echo)

    def body(self) -> dict[str, Any]:
        said = stamp(self.writing, self._model, "cmpl", KIND)
        said["choices"] = [
            {
                "index": number,
                "text": self._echoes[number] + choice.text,
                "logprobs": _logprobs(choice.logprobs, 0) if self._logprobs else None,
                "finish_reason": choice.reason,
            }
            for number, choice in enumerate(self.choices)
        ]
        return said | {"usage": usage_of(self.writing.written)}


class _Stream(StreamedAnswer):
    def __init__(self, writing: TextRequest, model: str, asked: ParsedRequest, echo: bool) -> None:
        super().__init__(writing, stamp(writing, model, "cmpl", KIND), asked.include_usage)
        self._logprobs = asked.generations[0].logprobs is not None
        self._echoes = _echoes(asked, echo)
        self._characters = [0] * len(asked.generations)

    def wrote(self, choice: int, piece: Piece) -> None:
        before, self._echoes[choice] = self._echoes[choice], ""
        logprobs = None
        if self._logprobs:
            logprobs = _logprobs(piece.logprobs, self._characters[choice])
        self._characters[choice] += len(piece.text)
        if before or piece.text or piece.logprobs:
            self.stream.send(self._choice(choice, before + piece.text, logprobs))

    def ended(self, choice: int, ending: Ending) -> None:
        self.stream.send(self._choice(choice, self._echoes[choice], None, ending.reason))

    def _choice(
        self, number: int, text: str, logprobs: dict[str, Any] | None, reason: str | None = None
    ) -> bytes:
        return self.chunk(
            {"index": number, "text": text, "logprobs": logprobs, "finish_reason": reason}
        )


def _logprobs(logprobs: list[TokenLogprob], offset: int) -> dict[str, Any]:
    """In the shape of this door: lists side by side."""
    offsets = []
    for one in logprobs:
        offsets.append(offset)
        offset += len(one.token)
    return {
        "tokens": [one.token for one in logprobs],
        "token_logprobs": [max(one.logprob, UNLIKELY) for one in logprobs],
        "top_logprobs": [
            {other.token: max(other.logprob, UNLIKELY) for other in one.top} for one in logprobs
        ],
        "text_offset": offsets,
    }
