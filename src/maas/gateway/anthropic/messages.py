"""`POST /v1/messages` and `/v1/messages/count_tokens`: the Anthropic Messages protocol."""

from __future__ import annotations

import json
import secrets
from typing import Any

import msgspec

from maas.domain.errors import MaasError, RequestTimeout
from maas.domain.generation import Ending, Piece, ToolCallPiece
from maas.gateway.anthropic.request import count_of, messages_of
from maas.gateway.anthropic.shapes import error_body
from maas.gateway.http.request import Request
from maas.gateway.http.sse import EventStream, event
from maas.gateway.metering import GenerationUsage
from maas.gateway.openai.answers import ChoiceText, WholeAnswer
from maas.gateway.openai.request import named_model
from maas.gateway.text.generation import TextRequest, TextService

OPERATION = "messages"
_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}

encode = msgspec.json.Encoder().encode


class MessagesHandler:
    def __init__(self, desk: TextService) -> None:
        self._desk = desk

    def create(self, request: Request) -> None:
        """Raises MalformedBody; other failures are counted and answered."""
        model, body = named_model(request.body)
        try:
            model, generation, stream = messages_of(body)
            writing = self._writing(request, model)
        except MaasError as error:
            self._desk.refused(request, OPERATION, model, error)
            return
        teller = _Stream(writing, model) if stream else _Whole(writing, model)
        writing.start(teller, [generation], 1)

    def count(self, request: Request) -> None:
        """Raises MalformedBody; other failures are counted and answered."""
        model, body = named_model(request.body)
        try:
            model, generation = count_of(body)
            writing = self._writing(request, model)
        except MaasError as error:
            self._desk.refused(request, OPERATION, model, error)
            return
        writing.counts_tokens = False
        writing.start(_Count(writing, 1), [generation], 1)

    def _writing(self, request: Request, model: str) -> TextRequest:
        return TextRequest(self._desk, request, self._desk.target(model), OPERATION)


def _message(model: str) -> dict[str, Any]:
    return {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(GenerationUsage(0)),
    }


def _usage(written: GenerationUsage) -> dict[str, Any]:
    """All of the prompt counts as input: this protocol's prompt cache is not offered."""
    return {
        "input_tokens": written.prompt_tokens,
        "output_tokens": written.completion_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }


def _stop(reason: str, stop: str) -> dict[str, Any]:
    if stop and reason == "stop":
        return {"stop_reason": "stop_sequence", "stop_sequence": stop}
    return {"stop_reason": _REASONS.get(reason, "end_turn"), "stop_sequence": None}


class _Count(WholeAnswer):
    def body(self) -> dict[str, Any]:
        return {"input_tokens": self.writing.written.prompt_tokens}


class _Whole(WholeAnswer):
    def __init__(self, writing: TextRequest, model: str) -> None:
        super().__init__(writing, 1)
        self._model = model

    def body(self) -> dict[str, Any]:
        (choice,) = self.choices
        said = _message(self._model) | _stop(choice.reason, choice.stop)
        said["content"] = _content(choice)
        return said | {"usage": _usage(self.writing.written)}


def _content(choice: ChoiceText) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    text = choice.text
    if text or not choice.calls:
        content.append({"type": "text", "text": text})
    for _, call in sorted(choice.calls.items()):
        content.append(
            {
                "type": "tool_use",
                "id": call["id"],
                "name": call["name"],
                "input": _input("".join(call["arguments"])),
            }
        )
    return content


def _input(arguments: str) -> dict[str, Any]:
    """A model may write arguments that are no JSON object, or be stopped within them."""
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


class _Stream:
    """One content block after the other: text, then each tool that is called."""

    def __init__(self, writing: TextRequest, model: str) -> None:
        self._writing = writing
        self._stream = EventStream(writing.request, writing.leave, self._fell_behind)
        self._model = model
        self._has_begun = False
        self._block = -1
        self._open: str | int | None = None
        """What the open block is: "text", or the index of a tool call."""

    def wrote(self, choice: int, piece: Piece) -> None:
        events = self._begin()
        if piece.text:
            events += self._into("text", {"type": "text", "text": ""})
            events += self._delta({"type": "text_delta", "text": piece.text})
        for part in piece.tool_calls:
            events += self._tool(part)
        self._stream.send(events)

    def ended(self, choice: int, ending: Ending) -> None:
        if self._block < 0:  # clients expect something to read
            self._stream.send(self._begin() + self._into("text", {"type": "text", "text": ""}))
        delta = _stop(ending.reason, ending.stop)
        usage = _usage(self._writing.written)
        last = _event("message_delta", {"delta": delta, "usage": usage})
        self._stream.send(self._close() + last)

    def done(self) -> None:
        self._stream.end(_event("message_stop", {}))

    def failed(self, error: MaasError) -> None:
        request = self._writing.request
        if self._stream.has_begun:
            request.keep_alive = False
            self._stream.end(event(encode(error_body(error)), b"error"))
        else:
            request.fail(error)

    def _fell_behind(self) -> None:
        self._writing.fail(RequestTimeout("the stream is read more slowly than it is written"))

    def _begin(self) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        return _event("message_start", {"message": _message(self._model)}) + _event("ping", {})

    def _into(self, what: str | int, block: dict[str, Any]) -> bytes:
        """Open a block for `what`, unless it is open."""
        if self._open == what:
            return b""
        closed = self._close()
        self._open = what
        self._block += 1
        said = {"index": self._block, "content_block": block}
        return closed + _event("content_block_start", said)

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return _event("content_block_stop", {"index": self._block})

    def _tool(self, part: ToolCallPiece) -> bytes:
        block = {"type": "tool_use", "id": part.id, "name": part.name, "input": {}}
        events = self._into(part.index, block)
        if part.arguments:
            delta = {"type": "input_json_delta", "partial_json": part.arguments}
            events += self._delta(delta)
        return events

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", {"index": self._block, "delta": delta})


def _event(kind: str, said: dict[str, Any]) -> bytes:
    return event(encode({"type": kind} | said), kind.encode())
