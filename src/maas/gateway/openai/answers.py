"""Parts of answers that chat and completions share."""

from __future__ import annotations

import secrets
import time
from typing import Any

from maas.domain.errors import MaasError, RequestTimeout
from maas.domain.generation import TokenLogprob
from maas.gateway.http.sse import EventStream, event
from maas.gateway.metering import GenerationUsage
from maas.gateway.openai.errors import error_body
from maas.gateway.text.answers import encode_json
from maas.gateway.text.generation import TextRequest
from maas.protocols.openai_responses import PromptTokensDetails, TextUsage

DONE = event(b"[DONE]")
UNLIKELY = -9999.0
"""The protocol's value for "very unlikely": JSON has no infinity."""


def answer_head(text_request: TextRequest, model: str, id_prefix: str, kind: str) -> dict[str, Any]:
    """The fields that all chunks of one answer share."""
    target = text_request.target
    return {
        "id": f"{id_prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        # A seed repeats an answer only with the same version and variant.
        "system_fingerprint": f"v{target.version}-{target.variant}",
    }


def usage_of(usage: GenerationUsage) -> TextUsage:
    return TextUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=PromptTokensDetails(usage.cached_tokens),
    )


class StreamedAnswer:
    """An answer as a stream of chunks with the same head and one choice each."""

    def __init__(
        self, text_request: TextRequest, head: dict[str, Any], include_usage: bool
    ) -> None:
        self.text_request = text_request
        self.stream = EventStream(text_request.request, text_request.disconnect, self._fell_behind)
        self._include_usage = include_usage
        # Every chunk consists of the head, its choice and the tail.
        self._head = encode_json(head)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}' if include_usage else b"]}"

    def chunk(self, choice: dict[str, Any]) -> bytes:
        return event(self._head + encode_json(choice) + self._tail)

    def end(self) -> None:
        last = b""
        if self._include_usage:
            usage = encode_json(usage_of(self.text_request.usage))
            last = event(self._head + b'],"usage":' + usage + b"}")
        self.stream.end(last + DONE)

    def fail(self, error: MaasError) -> None:
        request = self.text_request.request
        if self.stream.has_begun:
            request.keep_alive = False
            self.stream.end(event(encode_json(error_body(error))))
        else:
            request.fail(error)

    def _fell_behind(self) -> None:
        self.text_request.fail(
            RequestTimeout("the client reads the stream more slowly than it is generated")
        )


def token_logprob(token: TokenLogprob, with_top: bool = True) -> dict[str, Any]:
    """A token with its log probability and, `with_top`, those of likely alternatives."""
    entry: dict[str, Any] = {
        "token": token.token,
        "logprob": max(token.logprob, UNLIKELY),
        "bytes": token.bytes,
    }
    if with_top:
        entry["top_logprobs"] = [token_logprob(other, with_top=False) for other in token.top]
    return entry
