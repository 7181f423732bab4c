"""A fake replica behind a real socket, which answers only when the test wants it to."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable
from pathlib import Path

from maas.domain.errors import MaasError
from maas.domain.signature import Signature, TensorSpec
from maas.serving.routing.call import Call
from maas.serving.wire.channel import Channel
from maas.serving.wire.generation_frames import Generate, Step, pack_pieces, unpack_generate
from maas.serving.wire.messages import (
    Answers,
    Buffer,
    Column,
    Failure,
    FrameKind,
    Infer,
    pack_answers,
    pack_failure,
    pack_json,
    unpack_cancel,
    unpack_infer,
)

DOUBLES = Signature(
    (TensorSpec("x", "UINT8", (-1,)),), (TensorSpec("y", "UINT8", (-1,)),), example={"x": [1]}
)
"""One input and one output of bytes; rows may have any width."""


class PeerLink(Channel):
    """One connection to the peer, with copies of the frames that it received."""

    def __init__(self, peer: Peer) -> None:
        super().__init__()
        self.peer = peer
        self.infers: list[Infer] = []
        self.generates: list[Generate] = []
        self.frame_sizes: list[int] = []
        self.cancelled: list[int] = []
        self.is_closed = False

    def opened(self) -> None:
        self.peer.links.append(self)

    def closed(self, reason: Exception | None) -> None:
        self.is_closed = True

    def frame_received(self, kind: int, body: memoryview) -> None:
        if kind == FrameKind.INFER:
            self.frame_sizes.append(len(body))
            infer = unpack_infer(memoryview(bytes(body)))
            self.infers.append(infer)
            if self.peer.answers_at_once:
                self.answer(infer)
        elif kind == FrameKind.GENERATE:
            self.generates.append(unpack_generate(body))
        elif kind == FrameKind.CANCEL:
            self.cancelled.extend(unpack_cancel(body))

    @property
    def ids(self) -> list[int]:
        return [number for infer in self.infers for number in infer.ids]

    def answer(self, infer: Infer) -> None:
        """Answer with the inputs, in one frame."""
        rows = infer.rows
        zeros = array("I", [0] * len(rows))
        columns = [Column(c.shape, c.data) for c in infer.columns]
        self.send(pack_answers(Answers(infer.ids, rows, zeros, 0, sum(rows), columns)))

    def send_steps(self, *steps: Step) -> None:
        """Send steps of generations, in one frame."""
        self.send(pack_pieces(steps))

    def fail(self, number: int, error: MaasError) -> None:
        self.send(pack_failure(Failure(number, error)))

    def go_away(self) -> None:
        self.send(pack_json(FrameKind.GOAWAY, {}))

    def stop_reading(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()


class Peer:
    """A socket of a fake replica and its connections."""

    def __init__(self, path: Path, answers_at_once: bool = False) -> None:
        self.path = str(path)
        self.answers_at_once = answers_at_once
        self.links: list[PeerLink] = []
        self._server: asyncio.Server | None = None

    async def listen(self) -> Peer:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: PeerLink(self), self.path)
        return self

    @property
    def link(self) -> PeerLink:
        return self.links[-1]

    @property
    def received_ids(self) -> list[int]:
        return [number for link in self.links for number in link.ids]

    def crash(self) -> None:
        """Stop listening and break all connections."""
        if self._server is not None:
            self._server.close()
        for link in self.links:
            link.abort()


class FakeCall(Call):
    """A call that records how it ended."""

    __slots__ = ("ends", "raises")

    def __init__(
        self,
        rows: tuple[bytes, ...] = (b"\0",),
        seconds: float = 30.0,
        raises: bool = False,
        columns: list[Buffer] | None = None,
    ) -> None:
        """`rows` have equal lengths. With `raises`, all callbacks raise."""
        super().__init__(
            columns if columns is not None else [b"".join(rows)],
            ((len(rows[0]),),),
            len(rows),
            time.monotonic() + seconds,
        )
        self.ends: list[bytes | MaasError] = []
        self.raises = raises

    def answered(self, answers: Answers, at: int, first_row: int) -> None:
        if self.raises:
            raise ZeroDivisionError
        size = len(answers.columns[0].data) // answers.total_rows
        data = answers.columns[0].data[first_row * size : (first_row + self.rows) * size]
        self.ends.append(bytes(data))

    def failed(self, error: MaasError) -> None:
        self.ends.append(error)
        if self.raises:
            raise ZeroDivisionError

    @property
    def error(self) -> MaasError:
        (end,) = self.ends
        if not isinstance(end, MaasError):
            raise AssertionError(f"answered with {end!r}")
        return end


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until `condition` is true. Raises TimeoutError after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)
