"""chat: text generation, as a whole answer or as a stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from maas.client.http.calls import ApiCall, ApiReply, encode, error_in
from maas.domain.errors import InvalidInput, MaasError
from maas.domain.names import checked_name

PATH = "/v1/chat/completions"
SECONDS = 600.0
"""Default timeout of the server."""
Messages = str | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ChatAnswer:
    """An answer of a model."""

    text: str
    finish_reason: str
    """stop | length | tool_calls"""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    """Functions to call, in OpenAI's shape."""
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __str__(self) -> str:
        return self.text

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message, to append to the conversation."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        return message


def chat(
    deployment: str,
    messages: Messages,
    *,
    timeout: float = SECONDS,
    **options: Any,
) -> ApiCall[ChatAnswer]:
    """The answer of a model to `messages`: a string, or messages with `role` and `content`.

    `options` are those of OpenAI's chat completions, except `n`: `max_tokens`, `temperature`,
    `seed`, `stop`, `tools`, `response_format` and so on. `timeout`: seconds until the answer is
    complete. Raises InvalidInput, NotFound, ContextLengthExceeded, Overloaded, DeadlineExceeded,
    ServerUnavailable.
    """
    return ApiCall(
        "POST", PATH, _answer, body=_body(deployment, messages, options), timeout=timeout
    )


def _body(deployment: str, messages: Messages, options: dict[str, Any]) -> bytes:
    if options.get("n", 1) != 1:
        raise InvalidInput("n must be 1: chat returns one answer", field="n")
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    return encode(
        {"model": checked_name(deployment, "deployment"), "messages": list(messages), **options}
    )


def _answer(reply: ApiReply) -> ChatAnswer:
    body = reply.json()
    (choice,) = body["choices"]
    message, usage = choice["message"], body["usage"]
    return ChatAnswer(
        message["content"] or "",
        choice["finish_reason"],
        message.get("tool_calls") or [],
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )


class _Reader:
    """Parses the lines of an event stream into texts, and in the end into an answer."""

    def __init__(self) -> None:
        self.is_over = False
        self._texts: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._reason = ""
        self._usage: dict[str, int] = {}

    def text_in(self, line: str) -> str:
        """The text in a line, maybe empty. Raises the error in it."""
        if not line.startswith("data:"):
            return ""
        data = line[5:].strip()
        if data == "[DONE]":
            self.is_over = True
            return ""
        chunk = msgspec.json.decode(data)
        if "error" in chunk:
            raise error_in(chunk, 500)
        self._usage = chunk.get("usage") or self._usage
        text = ""
        for choice in chunk["choices"]:
            self._reason = choice["finish_reason"] or self._reason
            delta = choice["delta"]
            text += delta.get("content") or ""
            for part in delta.get("tool_calls", ()):
                self._add_call(part)
        self._texts.append(text)
        return text

    def _add_call(self, part: dict[str, Any]) -> None:
        function = part["function"]
        call = self._calls.get(part["index"])
        if call is None:
            self._calls[part["index"]] = {
                "id": part["id"], "type": "function", "function": dict(function),
            }  # fmt: skip
        else:
            call["function"]["arguments"] += function["arguments"]

    def answer(self) -> ChatAnswer:
        """The answer so far."""
        return ChatAnswer(
            "".join(self._texts),
            self._reason,
            [call for _, call in sorted(self._calls.items())],
            self._usage.get("prompt_tokens", 0),
            self._usage.get("completion_tokens", 0),
        )


def stream_call(
    deployment: str, messages: Messages, timeout: float, options: Mapping[str, Any]
) -> ApiCall[Any]:
    """The request for a stream of the answer; parameters are those of `chat`."""
    streaming = {"stream": True, "stream_options": {"include_usage": True}}
    body = _body(deployment, messages, {**options, **streaming})
    return ApiCall("POST", PATH, ApiReply.json, body=body, timeout=timeout)


_INCOMPLETE = "the stream ended before the answer was complete"


class _Stream:
    def __init__(self) -> None:
        self._reader = _Reader()

    @property
    def answer(self) -> ChatAnswer:
        """The answer so far."""
        return self._reader.answer()


class ChatStream(_Stream):
    """An iterator of the chunks of text of an answer, as they are generated.

    `answer` is the answer so far; after the iteration it is complete. `close`, or leaving the
    `with` block, stops the generation. Iterating raises the errors of `chat`.
    """

    def __init__(self, lines: Generator[str, None, None]) -> None:
        super().__init__()
        self._lines = lines
        self._pieces = self._read()

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def _read(self) -> Iterator[str]:
        try:
            for line in self._lines:
                text = self._reader.text_in(line)
                if text:
                    yield text
                if self._reader.is_over:
                    return
            raise MaasError(_INCOMPLETE)
        finally:
            self._lines.close()

    def close(self) -> None:
        self._lines.close()

    def __enter__(self) -> ChatStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncChatStream(_Stream):
    """Like `ChatStream`, for `async for`."""

    def __init__(self, lines: AsyncGenerator[str, None]) -> None:
        super().__init__()
        self._lines = lines
        self._pieces = self._read()

    def __aiter__(self) -> AsyncIterator[str]:
        return self._pieces

    async def _read(self) -> AsyncIterator[str]:
        try:
            async for line in self._lines:
                text = self._reader.text_in(line)
                if text:
                    yield text
                if self._reader.is_over:
                    return
            raise MaasError(_INCOMPLETE)
        finally:
            await self._lines.aclose()

    async def close(self) -> None:
        await self._lines.aclose()

    async def __aenter__(self) -> AsyncChatStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
