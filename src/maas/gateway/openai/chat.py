"""`POST /v1/chat/completions`: OpenAI's chat, whole and streamed."""

from __future__ import annotations

from typing import Any

from maas.domain.errors import MaasError
from maas.domain.generation import Ending, Piece, TokenLogprob, ToolCallPiece
from maas.gateway.http.request import Request
from maas.gateway.openai.answers import (
    ChoiceText,
    StreamedAnswer,
    WholeAnswer,
    stamp,
    token_logprob,
    usage_of,
)
from maas.gateway.openai.request import ParsedRequest, chat_of, named_model
from maas.gateway.text.generation import TextRequest, TextService

OPERATION = "chat"


class ChatHandler:
    def __init__(self, desk: TextService) -> None:
        self._desk = desk

    def handle(self, request: Request) -> None:
        """Raises MalformedBody; other failures are counted and answered."""
        model, body = named_model(request.body)
        try:
            model, asked = chat_of(body)
            writing = TextRequest(self._desk, request, self._desk.target(model), OPERATION)
        except MaasError as error:
            self._desk.refused(request, OPERATION, model, error)
            return
        teller = (_Stream if asked.stream else _Whole)(writing, model, asked)
        writing.start(teller, asked.generations, asked.per_prompt)


class _Whole(WholeAnswer):
    def __init__(self, writing: TextRequest, model: str, asked: ParsedRequest) -> None:
        super().__init__(writing, len(asked.generations))
        self._model = model
        self._logprobs = asked.generations[0].logprobs is not None

    def body(self) -> dict[str, Any]:
        said = stamp(self.writing, self._model, "chatcmpl", "chat.completion")
        said["choices"] = [
            {
                "index": number,
                "message": _message(choice),
                "logprobs": _logprobs(choice.logprobs) if self._logprobs else None,
                "finish_reason": choice.reason,
            }
            for number, choice in enumerate(self.choices)
        ]
        return said | {"usage": usage_of(self.writing.written)}


class _Stream(StreamedAnswer):
    def __init__(self, writing: TextRequest, model: str, asked: ParsedRequest) -> None:
        common = stamp(writing, model, "chatcmpl", "chat.completion.chunk")
        super().__init__(writing, common, asked.include_usage)
        self._logprobs = asked.generations[0].logprobs is not None
        self._begun: set[int] = set()

    def wrote(self, choice: int, piece: Piece) -> None:
        events = self._begin(choice)
        if piece.text or piece.logprobs:
            logprobs = _logprobs(piece.logprobs) if self._logprobs else None
            events += self._delta(choice, {"content": piece.text}, logprobs)
        if piece.tool_calls:
            events += self._delta(choice, {"tool_calls": [_call(p) for p in piece.tool_calls]})
        self.stream.send(events)

    def ended(self, choice: int, ending: Ending) -> None:
        self.stream.send(self._begin(choice) + self._delta(choice, {}, reason=ending.reason))

    def _begin(self, choice: int) -> bytes:
        if choice in self._begun:
            return b""
        self._begun.add(choice)
        # Clients add contents up, so it must not be null.
        return self._delta(choice, {"role": "assistant", "content": ""})

    def _delta(
        self,
        choice: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None = None,
        reason: str | None = None,
    ) -> bytes:
        return self.chunk(
            {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        )


def _message(choice: ChoiceText) -> dict[str, Any]:
    text = choice.text
    said: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if choice.calls:
        said["content"] = text or None
        said["tool_calls"] = [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": "".join(call["arguments"])},
            }
            for _, call in sorted(choice.calls.items())
        ]
    return said


def _call(part: ToolCallPiece) -> dict[str, Any]:
    if not part.id:
        return {"index": part.index, "function": {"arguments": part.arguments}}
    return {
        "index": part.index,
        "id": part.id,
        "type": "function",
        "function": {"name": part.name, "arguments": part.arguments},
    }


def _logprobs(logprobs: list[TokenLogprob]) -> dict[str, Any]:
    return {"content": [token_logprob(one) for one in logprobs], "refusal": None}
