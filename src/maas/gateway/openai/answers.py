"""What chat and completions of the OpenAI protocol have in common when they answer."""

from __future__ import annotations

import secrets
import time
from typing import Any

import msgspec

from maas.domain.errors import MaasError, RequestTimeout
from maas.domain.generation import Ending, Piece, TokenLogprob
from maas.gateway.http.sse import EventStream, event
from maas.gateway.metering import GenerationUsage
from maas.gateway.openai.shapes import error_body
from maas.gateway.text.generation import TextRequest

encode = msgspec.json.Encoder().encode

DONE = event(b"[DONE]")
UNLIKELY = -9999.0
"""The protocol's word for "very unlikely": JSON has no infinity."""


def stamp(writing: TextRequest, model: str, prefix: str, kind: str) -> dict[str, Any]:
    """What all parts of one answer have in common."""
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        # What wrote it: an answer can be had again only from the same.
        "system_fingerprint": f"v{writing.target.version}-{writing.target.variant}",
    }


def usage_of(written: GenerationUsage) -> dict[str, Any]:
    return {
        "prompt_tokens": written.prompt_tokens,
        "completion_tokens": written.completion_tokens,
        "total_tokens": written.prompt_tokens + written.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": written.cached_tokens},
    }


class ChoiceText:
    """What one choice has written so far."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.calls: dict[int, dict[str, Any]] = {}
        self.reason = ""
        self.stop = ""

    def add(self, piece: Piece) -> None:
        if piece.text:
            self.texts.append(piece.text)
        self.logprobs += piece.logprobs
        for part in piece.tool_calls:
            call = self.calls.setdefault(part.index, {"id": "", "name": "", "arguments": []})
            call["id"] = call["id"] or part.id
            call["name"] = call["name"] or part.name
            call["arguments"].append(part.arguments)

    @property
    def text(self) -> str:
        return "".join(self.texts)


class WholeAnswer:
    """Collects until all is written, then answers once."""

    def __init__(self, writing: TextRequest, choices: int) -> None:
        self.writing = writing
        self.choices = [ChoiceText() for _ in range(choices)]

    def wrote(self, choice: int, piece: Piece) -> None:
        self.choices[choice].add(piece)

    def ended(self, choice: int, ending: Ending) -> None:
        self.choices[choice].reason = ending.reason
        self.choices[choice].stop = ending.stop

    def body(self) -> dict[str, Any]:
        raise NotImplementedError

    def done(self) -> None:
        self.writing.request.respond(200, encode(self.body()))

    def failed(self, error: MaasError) -> None:
        self.writing.request.fail(error)


class StreamedAnswer:
    """Chunks of one kind, `stamp` and choices in each, and the end of such a stream."""

    def __init__(self, writing: TextRequest, common: dict[str, Any], include_usage: bool) -> None:
        self.writing = writing
        self.include_usage = include_usage
        self.stream = EventStream(writing.request, writing.leave, self._fell_behind)
        # Every chunk is this, its one choice and the tail.
        self._head = encode(common)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}' if include_usage else b"]}"

    def chunk(self, choice: dict[str, Any]) -> bytes:
        return event(self._head + encode(choice) + self._tail)

    def done(self) -> None:
        last = b""
        if self.include_usage:
            usage = encode(usage_of(self.writing.written))
            last = event(self._head + b'],"usage":' + usage + b"}")
        self.stream.end(last + DONE)

    def failed(self, error: MaasError) -> None:
        request = self.writing.request
        if self.stream.has_begun:
            request.keep_alive = False
            self.stream.end(event(encode(error_body(error))))
        else:
            request.fail(error)

    def _fell_behind(self) -> None:
        self.writing.fail(RequestTimeout("the stream is read more slowly than it is written"))


def token_logprob(one: TokenLogprob, with_top: bool = True) -> dict[str, Any]:
    said: dict[str, Any] = {
        "token": one.token,
        "logprob": max(one.logprob, UNLIKELY),
        "bytes": one.bytes,
    }
    if with_top:
        said["top_logprobs"] = [token_logprob(other, with_top=False) for other in one.top]
    return said
