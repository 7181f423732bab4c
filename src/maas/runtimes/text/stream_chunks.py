"""Chunks of an OpenAI-compatible stream, with the extensions of llama.cpp and vLLM, as pieces."""

from __future__ import annotations

import msgspec

from maas.domain.errors import (
    ContextLengthExceeded,
    InferenceFailed,
    InvalidInput,
    MaasError,
    Unavailable,
)
from maas.domain.generation import Piece, TokenLogprob, ToolCallPiece


class _TokenProb(msgspec.Struct):
    token: str = ""
    logprob: float | None = None
    bytes: list[int] | None = None
    top_logprobs: list[_TokenProb] = []


class _Logprobs(msgspec.Struct):
    content: list[_TokenProb] | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function = msgspec.field(default_factory=_Function)


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    """vLLM: the stop sequence that matched, or a token id."""
    logprobs: _Logprobs | None = None


class PromptProgress(msgspec.Struct):
    """llama.cpp: tokens of the prompt, those of them in the cache, and those processed so far."""

    total: int = 0
    cache: int = 0
    processed: int = 0
    """Including those in the cache."""


class _Timings(msgspec.Struct):
    cache_n: int = 0
    prompt_n: int = 0
    predicted_n: int = 0


class _Details(msgspec.Struct):
    cached_tokens: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class EngineError(msgspec.Struct):
    """An error in a stream, with the types of llama.cpp's server."""

    code: int | str | None = None
    message: str = ""
    type: str = ""
    n_prompt_tokens: int | None = None

    def to_domain(self, context_length: int) -> MaasError:
        if self.type == "exceed_context_size_error":
            return too_long(self.n_prompt_tokens, context_length)
        if self.type in ("invalid_request_error", "not_found_error", "not_supported_error"):
            return InvalidInput(f"the engine refuses this request: {self.message}")
        if self.type == "unavailable_error":
            return Unavailable(f"the engine: {self.message}", retry_after=1.0)
        return InferenceFailed(f"the engine failed: {self.message}")


class Chunk(msgspec.Struct):
    """One JSON object of a stream; other fields are ignored."""

    choices: list[_Choice] = []
    prompt_progress: PromptProgress | None = None
    timings: _Timings | None = None
    usage: _Usage | None = None
    error: EngineError | None = None

    def piece(self, tokens: int, top: int) -> Piece | None:
        """The chunk as a piece of `tokens` tokens, with `top` alternatives for each; None if it is
        empty."""
        text, logprobs, calls = "", [], []
        for choice in self.choices:
            delta = choice.delta or _Delta()
            text += choice.text or delta.content or ""
            calls += [_call(call) for call in delta.tool_calls or []]
            if choice.logprobs is not None:
                logprobs += [_logprob(p, top) for p in choice.logprobs.content or []]
        if text or tokens or logprobs or calls:
            return Piece(text, tokens, logprobs, calls)
        return None

    @property
    def finish_reason(self) -> str | None:
        return self.choices[0].finish_reason if self.choices else None

    @property
    def stop(self) -> str:
        """The stop sequence that matched, if the engine reports it."""
        reason = self.choices[0].stop_reason if self.choices else None
        return reason if isinstance(reason, str) else ""


decode_chunk = msgspec.json.Decoder(Chunk).decode


def too_long(prompt_tokens: int | None, context_length: int) -> ContextLengthExceeded:
    """The error for a prompt that leaves no room for output."""
    return ContextLengthExceeded(
        f"the prompt has {prompt_tokens} tokens; prompt and output of this model have at most "
        f"{context_length} together",
        prompt_tokens=prompt_tokens,
        context_length=context_length,
    )


def _call(raw: _ToolCall) -> ToolCallPiece:
    function = raw.function
    return ToolCallPiece(raw.index, raw.id or "", function.name or "", function.arguments or "")


_LEAST_LOGPROB = -9999.0
"""For tokens of probability 0; JSON has no infinity."""


def _logprob(raw: _TokenProb, top: int) -> TokenLogprob:
    value = _LEAST_LOGPROB if raw.logprob is None else max(raw.logprob, _LEAST_LOGPROB)
    likely = [_logprob(other, 0) for other in raw.top_logprobs[:top]]
    return TokenLogprob(raw.token, value, raw.bytes, likely)
