"""Frames of generations are packed and unpacked without loss."""

from __future__ import annotations

import pytest

from maas.domain.generation import Ending, Generation, Piece, TokenLogprob, ToolCallPiece
from maas.serving.wire.generation_frames import (
    Generate,
    pack_generate,
    pack_pieces,
    unpack_generate,
    unpack_pieces,
)
from maas.serving.wire.messages import Buffer, FrameKind, Priority, ProtocolViolation

HEAD = 5


def body(parts: list[Buffer]) -> memoryview:
    return memoryview(b"".join(parts))[HEAD:]


def test_a_generation_is_unpacked_as_it_was_packed() -> None:
    sent = Generate(
        7,
        12.5,
        3,
        Priority.NORMAL,
        Generation(
            messages=[{"role": "user", "content": "hé \U0001f600"}],
            max_tokens=5,
            logit_bias={42: -100.0},
            response_format={"type": "json_schema", "schema": {"type": "object"}},
            tools=[{"type": "function", "function": {"name": "f"}}],
        ),
    )
    parts = pack_generate(sent)
    assert parts[0][4] == FrameKind.GENERATE
    assert unpack_generate(body(parts)) == sent


def test_pieces_of_many_generations_share_a_frame() -> None:
    steps = [
        (1, Piece("a", 1, [TokenLogprob("a", -0.5, [97], [TokenLogprob("b", -1.0)])]), None),
        (2, Piece(tool_calls=[ToolCallPiece(0, "c1", "f", "{")]), None),
        (3, Piece(), Ending("stop", 3, 4, 1)),
    ]
    parts = pack_pieces(steps)
    assert parts[0][4] == FrameKind.PIECES
    assert unpack_pieces(body(parts)) == steps


@pytest.mark.parametrize(
    "malformed", [b"", b"x" * 20, bytes(21), bytes(20) + b"\x09{}", bytes(21) + b'{"stop":1}']
)
def test_malformed_frames_are_refused(malformed: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        unpack_generate(memoryview(malformed))
    with pytest.raises(ProtocolViolation):
        unpack_pieces(memoryview(malformed))
