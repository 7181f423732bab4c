"""Frames of generations: requests one by one, and frames of pieces of many.

GENERATE is `u64 id | f64 deadline | u32 tenant | u8 priority | JSON Generation`; PIECES is a JSON
list of `[id, Piece | Ending]` with the answers of many generations. Failures and cancellations are
those of `messages.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from maas.domain.generation import Ending, Generation, Piece
from maas.serving.wire.messages import (
    Buffer,
    FrameKind,
    Priority,
    ProtocolViolation,
    frame,
)

_HEAD = struct.Struct("<QdIB")
Step = tuple[int, Piece, Ending | None]
"""Of a generation's id, what was written, and the ending if it was the last step."""


@dataclass(slots=True)
class Generate:
    id: int
    """Unique on this connection, also among the ids of INFER frames."""
    deadline: float
    """Seconds on CLOCK_MONOTONIC."""
    tenant: int
    priority: Priority
    generation: Generation


_encode = msgspec.json.Encoder().encode
_decode_generation = msgspec.json.Decoder(Generation).decode
_decode_steps = msgspec.json.Decoder(list[Step]).decode


def encode_generation(generation: Generation) -> bytes:
    """As it lies in a GENERATE frame."""
    return _encode(generation)


def pack_encoded(
    number: int, deadline: float, tenant: int, priority: Priority, encoded: Buffer
) -> list[Buffer]:
    """The GENERATE frame of a generation that is encoded already."""
    return frame(FrameKind.GENERATE, [_HEAD.pack(number, deadline, tenant, priority), encoded])


def pack_generate(message: Generate) -> list[Buffer]:
    encoded = _encode(message.generation)
    return pack_encoded(message.id, message.deadline, message.tenant, message.priority, encoded)


def unpack_generate(body: memoryview) -> Generate:
    """Raises ProtocolViolation for what is no such frame."""
    if len(body) < _HEAD.size:
        raise ProtocolViolation("a generate frame is too short")
    number, deadline, tenant, priority = _HEAD.unpack_from(body)
    try:
        generation = _decode_generation(body[_HEAD.size :])
        return Generate(number, deadline, tenant, Priority(priority), generation)
    except (msgspec.MsgspecError, ValueError) as wrong:
        raise ProtocolViolation(str(wrong)) from None


def pack_pieces(steps: Sequence[Step]) -> list[Buffer]:
    return frame(FrameKind.PIECES, [_encode(steps)])


def unpack_pieces(body: memoryview) -> list[Step]:
    """Raises ProtocolViolation for what is no such frame."""
    try:
        return _decode_steps(body)
    except (msgspec.MsgspecError, ValueError) as wrong:
        raise ProtocolViolation(str(wrong)) from None
