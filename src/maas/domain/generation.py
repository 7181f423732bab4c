"""Text generation: the request for one sequence, and the pieces of its output.

Gateways and replicas exchange these objects. The handler of a protocol translates its request into
a `Generation`; an engine answers with `Piece`s and one `Ending`. A `Generation` holds validated
values only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Generation:
    """One sequence to generate. A request with several choices is several generations."""

    messages: list[dict[str, Any]] | None = None
    """Chat messages in OpenAI's format; exactly one of `messages` and `prompt` is set."""
    prompt: str | list[int] | None = None
    """Text or token ids to continue without a chat template."""
    max_tokens: int | None = None
    """Most tokens to generate. None: until the model stops or its context is full; 0: count the
    prompt's tokens only."""
    temperature: float | None = None
    """None here and below: the publisher's recommendation, else the engine's default."""
    top_p: float | None = None
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    """Token id to the number that is added to its logit."""
    stop: list[str] = field(default_factory=list)
    """Stop sequences: generation ends where one appears; it is not part of the text."""
    logprobs: int | None = None
    """Number of likely alternatives to report per token, with the token itself; None: no
    log probabilities."""
    response_format: dict[str, Any] | None = None
    """`{"type": "json_object"}` or `{"type": "json_schema", "schema": {…}}`; enforced."""
    tools: list[dict[str, Any]] = field(default_factory=list)
    """Functions that the model may call, in OpenAI's format."""
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token: str
    logprob: float
    """Natural logarithm of the token's probability."""
    bytes: list[int] | None = None
    top: list[TokenLogprob] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ToolCallPiece:
    """A part of a tool call. The first piece of an `index` has its id and name; the arguments
    come in fragments of JSON text."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


def joined_calls(pieces: list[ToolCallPiece]) -> list[ToolCallPiece]:
    """`pieces` with neighboring pieces of the same call joined; clients expect at most one piece
    of a call at a time."""
    joined: list[ToolCallPiece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if last is not None and last.index == piece.index and piece.id in ("", last.id):
            joined[-1] = ToolCallPiece(
                piece.index,
                last.id,
                last.name or piece.name,
                last.arguments + piece.arguments,
            )
        else:
            joined.append(piece)
    return joined


@dataclass(frozen=True, slots=True)
class Piece:
    """Output since the last piece."""

    text: str = ""
    tokens: int = 0
    """Number of tokens in this piece, if the engine reports it; the ending has the total."""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    tool_calls: list[ToolCallPiece] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Ending:
    """Why generation ended, and its usage as the engine counted it."""

    reason: str
    """stop | length | tool_calls | cancelled (the client disconnected or the deadline passed)"""
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Prompt tokens that were in the engine's prefix cache."""
    stop: str = ""
    """The stop sequence that ended generation, if the engine reports it."""
    compute_us: int = field(default=0, compare=False)
    """Share of the engine's time, microseconds; sequences that run at once divide it."""
