"""Text that a model writes step by step: what is asked for, and what comes piece by piece.

These are the words between a gateway and a replica. Doors translate their protocol into a
`Generation`; runtimes answer with `Piece`s and one `Ending`. Whatever a caller may not say has been
refused before one of these is made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Generation:
    """One sequence to be written. Several choices of one request are several generations."""

    messages: list[dict[str, Any]] | None = None
    """Chat messages in OpenAI's shape; exactly one of `messages` and `prompt` is there."""
    prompt: str | list[int] | None = None
    """Text, or token ids, to be continued as it is."""
    max_tokens: int | None = None
    """Most tokens to write; None: until the model stops or its context is full. 0: only count
    the prompt."""
    temperature: float | None = None
    """None here and below: what the model's publisher recommends, else the engine's default."""
    top_p: float | None = None
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    """By token id, added to the logit."""
    stop: list[str] = field(default_factory=list)
    """Texts at which writing ends; they are not part of the answer."""
    logprobs: int | None = None
    """None: none; otherwise those of the chosen tokens and of so many likely others."""
    response_format: dict[str, Any] | None = None
    """`{"type": "json_object"}` or `{"type": "json_schema", "schema": {…}}`; enforced."""
    tools: list[dict[str, Any]] = field(default_factory=list)
    """Functions that may be called, in OpenAI's shape."""
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token: str
    logprob: float
    """Natural logarithm of its probability."""
    bytes: list[int] | None = None
    top: list[TokenLogprob] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ToolCallPiece:
    """A part of a call: the first piece of an `index` has id and name, the arguments come in
    fragments of JSON text."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


def joined_calls(pieces: list[ToolCallPiece]) -> list[ToolCallPiece]:
    """The same with neighbors of a call joined: clients expect at most one piece of a call at a
    time."""
    found: list[ToolCallPiece] = []
    for piece in pieces:
        last = found[-1] if found else None
        if last is not None and last.index == piece.index and piece.id in ("", last.id):
            found[-1] = ToolCallPiece(
                piece.index,
                last.id,
                last.name or piece.name,
                last.arguments + piece.arguments,
            )
        else:
            found.append(piece)
    return found


@dataclass(frozen=True, slots=True)
class Piece:
    """What was written since the last piece."""

    text: str = ""
    tokens: int = 0
    """How many tokens this piece stands for, as far as the engine says; the ending has the sum."""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    tool_calls: list[ToolCallPiece] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Ending:
    """Why the writing ended, and what it took, as the engine counted."""

    reason: str
    """stop | length | tool_calls; cancelled, if the caller left or its deadline passed"""
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Of the prompt's tokens, those whose work was done before."""
    stop: str = ""
    """Of the asked stops, the one that ended it, if the engine says."""
    compute_us: int = field(default=0, compare=False)
    """Its share of the engine's time, microseconds: sequences that run at once share it."""
