"""A channel splits its bytes into frames, joins writes, and reports congestion."""

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


class RecordingChannel(Channel):
    def __init__(self) -> None:
        super().__init__()
        self.frames: list[tuple[int, bytes]] = []
        self.is_closed = False
        self.congestion: list[bool] = []

    def frame_received(self, kind: int, body: memoryview) -> None:
        if kind == 99:
            raise ProtocolViolation("unknown kind")
        self.frames.append((kind, bytes(body)))

    def closed(self, reason: Exception | None) -> None:
        self.is_closed = True

    def congestion_changed(self) -> None:
        self.congestion.append(self.is_congested)


def frame(kind: int, body: bytes) -> bytes:
    return struct.pack("<IB", 1 + len(body), kind) + body


FRAMES = frame(1, b"hello") + frame(2, b"") + frame(3, b"abc" * 20)
CONTENTS = [(1, b"hello"), (2, b""), (3, b"abc" * 20)]


def connected(use: Callable[[RecordingChannel, socket.socket], Awaitable[None]]) -> None:
    """Run `use` with a channel and the socket at its other end."""

    async def main() -> None:
        own, peer = socket.socketpair()
        peer.setblocking(False)
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_unix_connection(RecordingChannel, sock=own)
        try:
            await use(channel, peer)
        finally:
            channel.abort()
            peer.close()
            await asyncio.sleep(0)

    uvloop.run(main())


def test_frames_are_complete_wherever_a_read_ends() -> None:
    async def main() -> None:
        for at in range(len(FRAMES) + 1):
            channel = RecordingChannel()
            channel.data_received(FRAMES[:at])
            channel.data_received(FRAMES[at:])
            assert channel.frames == CONTENTS, at
        channel = RecordingChannel()
        for at in range(len(FRAMES)):
            channel.data_received(FRAMES[at : at + 1])
        assert channel.frames == CONTENTS

    uvloop.run(main())


def test_frames_of_one_tick_arrive_in_order_over_a_socket() -> None:
    async def use(channel: RecordingChannel, peer: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(peer, FRAMES + FRAMES)
        await until(lambda: len(channel.frames) == 6)
        assert channel.frames == CONTENTS * 2
        channel.send([b"one", b" and "])
        channel.send([b"two"])
        assert await loop.sock_recv(peer, 100) == b"one and two"

    connected(use)


@pytest.mark.parametrize("first", [1, 4, 5])
@pytest.mark.parametrize("length", [0, MAX_FRAME_BYTES + 1, 0xFFFFFFFF])
def test_a_frame_of_a_forbidden_length_closes_the_channel_before_it_arrives(
    first: int, length: int
) -> None:
    async def use(channel: RecordingChannel, peer: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        head = struct.pack("<IB", length, 1)
        await loop.sock_sendall(peer, head[:first])
        await asyncio.sleep(0.01)
        if not channel.is_closed:
            await loop.sock_sendall(peer, head[first:])
        await until(lambda: channel.is_closed)
        assert channel.frames == []

    connected(use)


def test_an_unknown_frame_closes_the_channel() -> None:
    async def use(channel: RecordingChannel, peer: socket.socket) -> None:
        await asyncio.get_running_loop().sock_sendall(peer, frame(1, b"a") + frame(99, b""))
        await until(lambda: channel.is_closed)
        assert channel.frames == [(1, b"a")]

    connected(use)


def test_frames_sent_after_the_close_are_dropped() -> None:
    async def use(channel: RecordingChannel, peer: socket.socket) -> None:
        channel.send([b"the last frame"])
        channel.close()
        channel.send([b"never sent"])
        loop = asyncio.get_running_loop()
        assert await loop.sock_recv(peer, 100) == b"the last frame"
        assert await loop.sock_recv(peer, 100) == b""
        await until(lambda: channel.is_closed)
        for _ in range(3):
            channel.send([b"x" * 100])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert channel._to_send == []

    connected(use)


def test_congestion_is_noticed_and_so_is_its_end() -> None:
    async def use(channel: RecordingChannel, peer: socket.socket) -> None:
        total = 8 << 20
        channel.send([b"x" * total])
        await until(lambda: channel.is_congested)
        loop = asyncio.get_running_loop()
        received = 0
        while received < total:
            received += len(await loop.sock_recv(peer, 1 << 20))
        await until(lambda: not channel.is_congested)
        assert channel.congestion == [True, False]

    connected(use)
