from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from maas.serving.wire.channel import Channel
from maas.serving.wire.messages import MAX_FRAME_BYTES, ProtocolViolation
from tests.support.fakes.replica_peer import until


class Heard(Channel):
    def __init__(self) -> None:
        super().__init__()
        self.frames: list[tuple[int, bytes]] = []
        self.is_closed = False
        self.congestion: list[bool] = []

    def frame_received(self, kind: int, body: memoryview) -> None:
        if kind == 99:
            raise ProtocolViolation("no such kind")
        self.frames.append((kind, bytes(body)))

    def closed(self, reason: Exception | None) -> None:
        self.is_closed = True

    def congestion_changed(self) -> None:
        self.congestion.append(self.is_congested)


def frame(kind: int, body: bytes) -> bytes:
    return struct.pack("<IB", 1 + len(body), kind) + body


TWO = frame(1, b"hello") + frame(2, b"") + frame(3, b"abc" * 20)
WHAT_TWO_SAY = [(1, b"hello"), (2, b""), (3, b"abc" * 20)]


def connected(use: Callable[[Heard, socket.socket], Awaitable[None]]) -> None:
    """Runs `use` with a channel and the socket at its other end."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        _, heard = await loop.create_unix_connection(Heard, sock=ours)
        try:
            await use(heard, theirs)
        finally:
            heard.abort()
            theirs.close()
            await asyncio.sleep(0)

    uvloop.run(main())


def test_frames_are_whole_wherever_a_read_ends() -> None:
    async def main() -> None:
        for at in range(len(TWO) + 1):
            heard = Heard()
            heard.data_received(TWO[:at])
            heard.data_received(TWO[at:])
            assert heard.frames == WHAT_TWO_SAY, at
        heard = Heard()
        for at in range(len(TWO)):
            heard.data_received(TWO[at : at + 1])
        assert heard.frames == WHAT_TWO_SAY

    uvloop.run(main())


def test_frames_of_one_tick_arrive_in_order_over_a_socket() -> None:
    async def use(heard: Heard, theirs: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(theirs, TWO + TWO)
        await until(lambda: len(heard.frames) == 6)
        assert heard.frames == WHAT_TWO_SAY * 2
        heard.send([b"one", b" and "])
        heard.send([b"two"])
        assert await loop.sock_recv(theirs, 100) == b"one and two"

    connected(use)


@pytest.mark.parametrize("first", [1, 4, 5])
@pytest.mark.parametrize("length", [0, MAX_FRAME_BYTES + 1, 0xFFFFFFFF])
def test_a_frame_of_no_allowed_length_ends_the_channel_before_it_arrives(
    first: int, length: int
) -> None:
    async def use(heard: Heard, theirs: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        head = struct.pack("<IB", length, 1)
        await loop.sock_sendall(theirs, head[:first])
        await asyncio.sleep(0.01)
        if not heard.is_closed:
            await loop.sock_sendall(theirs, head[first:])
        await until(lambda: heard.is_closed)
        assert heard.frames == []

    connected(use)


def test_a_frame_that_is_not_understood_ends_the_channel() -> None:
    async def use(heard: Heard, theirs: socket.socket) -> None:
        await asyncio.get_running_loop().sock_sendall(theirs, frame(1, b"a") + frame(99, b""))
        await until(lambda: heard.is_closed)
        assert heard.frames == [(1, b"a")]

    connected(use)


def test_what_is_sent_after_the_end_is_dropped() -> None:
    async def use(heard: Heard, theirs: socket.socket) -> None:
        heard.send([b"last words"])
        heard.close()
        heard.send([b"never sent"])
        loop = asyncio.get_running_loop()
        assert await loop.sock_recv(theirs, 100) == b"last words"
        assert await loop.sock_recv(theirs, 100) == b""
        await until(lambda: heard.is_closed)
        for _ in range(3):
            heard.send([b"x" * 100])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert heard._to_send == []

    connected(use)


def test_a_peer_that_does_not_read_is_noticed_and_one_that_reads_again_too() -> None:
    async def use(heard: Heard, theirs: socket.socket) -> None:
        total = 8 << 20
        heard.send([b"x" * total])
        await until(lambda: heard.is_congested)
        loop = asyncio.get_running_loop()
        got = 0
        while got < total:
            got += len(await loop.sock_recv(theirs, 1 << 20))
        await until(lambda: not heard.is_congested)
        assert heard.congestion == [True, False]

    connected(use)
