"""`POST /v1/messages` and `/v1/messages/count_tokens`: the Anthropic Messages protocol."""

from __future__ import annotations

import json
import secrets
from typing import Any

from maas.domain.errors import MaasError, RequestTimeout
from maas.domain.generation import Ending, Piece, ToolCallPiece
from maas.gateway.anthropic.errors import error_body
from maas.gateway.anthropic.request import count_request, messages_request
from maas.gateway.http.request import Request
from maas.gateway.http.sse import EventStream, event
from maas.gateway.metering import GenerationUsage
from maas.gateway.text.answers import ChoiceText, WholeAnswer, encode_json
from maas.gateway.text.generation import TextRequest, TextService
from maas.gateway.text.json_body import model_and_fields
from maas.protocols.anthropic import (
    CountedTokens,
    MessagesAnswer,
    MessagesUsage,
    StopReason,
    TextBlock,
    ToolUseBlock,
)

OPERATION = "messages"
_STOP_REASONS: dict[str, StopReason] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
}


class MessagesHandler:
    def __init__(self, service: TextService) -> None:
        self._service = service

    def create(self, request: Request) -> None:
        """Raises MalformedBody; other failures are counted and answered."""
        model, body = model_and_fields(request.body)
        try:
            model, generation, stream = messages_request(body)
            text_request = self._service.begin(request, model, OPERATION)
        except MaasError as error:
            self._service.refuse(request, OPERATION, model, error)
            return
        writer = (_Stream if stream else _Whole)(text_request, model)
        text_request.start(writer, [generation], 1)

    def count(self, request: Request) -> None:
        """Raises MalformedBody; other failures are counted and answered."""
        model, body = model_and_fields(request.body)
        try:
            model, generation = count_request(body)
            text_request = self._service.begin(request, model, OPERATION)
        except MaasError as error:
            self._service.refuse(request, OPERATION, model, error)
            return
        text_request.counts_tokens = False
        text_request.start(_Count(text_request, 1), [generation], 1)


def _new_answer(model: str) -> MessagesAnswer:
    """An answer without content yet."""
    return MessagesAnswer(
        id=f"msg_{secrets.token_hex(12)}",
        type="message",
        role="assistant",
        model=model,
        content=[],
        stop_reason=None,
        stop_sequence=None,
        usage=_usage(GenerationUsage(0)),
    )


def _usage(usage: GenerationUsage) -> MessagesUsage:
    return MessagesUsage(usage.prompt_tokens, usage.completion_tokens, 0, 0)


def _stop_of(reason: str, stop: str) -> tuple[StopReason, str | None]:
    """`stop_reason` and `stop_sequence`."""
    if stop and reason == "stop":
        return "stop_sequence", stop
    return _STOP_REASONS.get(reason, "end_turn"), None


class _Count(WholeAnswer):
    def body(self) -> CountedTokens:
        return CountedTokens(self.text_request.usage.prompt_tokens)


class _Whole(WholeAnswer):
    def __init__(self, text_request: TextRequest, model: str) -> None:
        super().__init__(text_request, 1)
        self._model = model

    def body(self) -> MessagesAnswer:
        (choice,) = self.choices
        answer = _new_answer(self._model)
        answer.content = _content(choice)
        answer.stop_reason, answer.stop_sequence = _stop_of(choice.reason, choice.stop)
        answer.usage = _usage(self.text_request.usage)
        return answer


def _content(choice: ChoiceText) -> list[TextBlock | ToolUseBlock]:
    content: list[TextBlock | ToolUseBlock] = []
    text = choice.text
    if text or not choice.calls:
        content.append(TextBlock(text))
    for call in choice.calls:
        content.append(ToolUseBlock(call.id, call.name, _tool_input(call.arguments)))
    return content


def _tool_input(arguments: str) -> dict[str, Any]:
    """`arguments` as an object; empty if the model did not generate a complete JSON object."""
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


class _Stream:
    """One content block after the other: text, then each tool call."""

    def __init__(self, text_request: TextRequest, model: str) -> None:
        self._text_request = text_request
        self._stream = EventStream(text_request.request, text_request.disconnect, self._fell_behind)
        self._model = model
        self._has_begun = False
        self._block = -1
        """Index of the last block."""
        self._open: str | int | None = None
        """The open block: "text", or the index of a tool call."""

    def write(self, choice: int, piece: Piece) -> None:
        events = self._begin()
        if piece.text:
            events += self._open_block("text", {"type": "text", "text": ""})
            events += self._delta({"type": "text_delta", "text": piece.text})
        for part in piece.tool_calls:
            events += self._tool(part)
        self._stream.send(events)

    def end_choice(self, choice: int, ending: Ending) -> None:
        if self._block < 0:  # clients expect at least one block
            events = self._begin() + self._open_block("text", {"type": "text", "text": ""})
            self._stream.send(events)
        stop_reason, stop_sequence = _stop_of(ending.reason, ending.stop)
        delta = {"stop_reason": stop_reason, "stop_sequence": stop_sequence}
        usage = _usage(self._text_request.usage)
        last = _event("message_delta", {"delta": delta, "usage": usage})
        self._stream.send(self._close_block() + last)

    def end(self) -> None:
        self._stream.end(_event("message_stop", {}))

    def fail(self, error: MaasError) -> None:
        request = self._text_request.request
        if self._stream.has_begun:
            request.keep_alive = False
            self._stream.end(event(encode_json(error_body(error)), b"error"))
        else:
            request.fail(error)

    def _fell_behind(self) -> None:
        self._text_request.fail(
            RequestTimeout("the client reads the stream more slowly than it is generated")
        )

    def _begin(self) -> bytes:
        """The first events of the stream, once."""
        if self._has_begun:
            return b""
        self._has_begun = True
        message = _new_answer(self._model)
        return _event("message_start", {"message": message}) + _event("ping", {})

    def _open_block(self, key: str | int, block: dict[str, Any]) -> bytes:
        """Close the open block and open `block`, unless the block of `key` is open already."""
        if self._open == key:
            return b""
        events = self._close_block()
        self._open = key
        self._block += 1
        start = {"index": self._block, "content_block": block}
        return events + _event("content_block_start", start)

    def _close_block(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return _event("content_block_stop", {"index": self._block})

    def _tool(self, part: ToolCallPiece) -> bytes:
        block = {"type": "tool_use", "id": part.id, "name": part.name, "input": {}}
        events = self._open_block(part.index, block)
        if part.arguments:
            delta = {"type": "input_json_delta", "partial_json": part.arguments}
            events += self._delta(delta)
        return events

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", {"index": self._block, "delta": delta})


def _event(kind: str, fields: dict[str, Any]) -> bytes:
    return event(encode_json({"type": kind} | fields), kind.encode())
