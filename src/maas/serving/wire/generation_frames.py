"""Frames of text generations.

GENERATE holds one request: `u64 id | f64 deadline | u32 tenant | u8 priority | JSON Generation`.
PIECES holds steps of many generations: a JSON list of `[id, Piece, Ending | null]`. Failures and
cancellations use the frames of `messages.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from maas.domain.generation import Ending, Generation, Piece
from maas.serving.wire.messages import Buffer, FrameKind, Priority, ProtocolViolation, frame

_HEAD = struct.Struct("<QdIB")
Step = tuple[int, Piece, Ending | None]
"""A generation's id, its new output, and its ending if this is the last step."""


@dataclass(slots=True)
class Generate:
    """The contents of a GENERATE frame."""

    id: int
    """Unique on the connection, also among the ids of INFER frames."""
    deadline: float
    """Seconds on CLOCK_MONOTONIC."""
    tenant: int
    priority: Priority
    generation: Generation


_encode = msgspec.json.Encoder().encode
_decode_generation = msgspec.json.Decoder(Generation).decode
_decode_steps = msgspec.json.Decoder(list[Step]).decode


def encode_generation(generation: Generation) -> bytes:
    """The bytes of `generation` in a GENERATE frame."""
    return _encode(generation)


def pack_encoded(
    number: int, deadline: float, tenant: int, priority: Priority, encoded: Buffer
) -> list[Buffer]:
    """The GENERATE frame of a generation that `encode_generation` encoded."""
    return frame(FrameKind.GENERATE, [_HEAD.pack(number, deadline, tenant, priority), encoded])


def pack_generate(message: Generate) -> list[Buffer]:
    encoded = _encode(message.generation)
    return pack_encoded(message.id, message.deadline, message.tenant, message.priority, encoded)


def unpack_generate(body: memoryview) -> Generate:
    """Raises ProtocolViolation if `body` is not that of a GENERATE frame."""
    if len(body) < _HEAD.size:
        raise ProtocolViolation("a generate frame is too short")
    number, deadline, tenant, priority = _HEAD.unpack_from(body)
    try:
        generation = _decode_generation(body[_HEAD.size :])
        return Generate(number, deadline, tenant, Priority(priority), generation)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ProtocolViolation(str(error)) from None


def pack_pieces(steps: Sequence[Step]) -> list[Buffer]:
    return frame(FrameKind.PIECES, [_encode(steps)])


def unpack_pieces(body: memoryview) -> list[Step]:
    """Raises ProtocolViolation if `body` is not that of a PIECES frame."""
    try:
        return _decode_steps(body)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ProtocolViolation(str(error)) from None


def has_content(piece: Piece) -> bool:
    """Whether `piece` has text, tokens or tool calls. An engine may also report an empty step."""
    return bool(piece.text or piece.tokens or piece.logprobs or piece.tool_calls)
