"""The socket of a replica and its connections: listening, pings, cancellations and draining."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import psutil

from maas.domain.deployments import ReplicaSpec
from maas.domain.errors import MaasError
from maas.serving.wire.channel import Channel
from maas.serving.wire.messages import (
    Failure,
    FrameKind,
    ProtocolViolation,
    pack_failure,
    pack_json,
    unpack_cancel,
    unpack_json,
)

log = logging.getLogger(__name__)


class ReplicaSocket:
    """The socket of one replica and its connections.

    Subclasses implement `connection`, `cancel`, `abandoned` and `is_busy`, and set `idle` when they
    become idle.
    """

    def __init__(self, spec: ReplicaSpec) -> None:
        self._spec = spec
        self._connections: set[Channel] = set()
        self._loop = asyncio.get_running_loop()
        self.is_draining = False
        self.idle = asyncio.Event()
        self._process = psutil.Process()
        self._listener: asyncio.Server | None = None

    # -- for subclasses ---------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        raise NotImplementedError

    def connection(self) -> Channel:
        """A protocol object for a new connection."""
        raise NotImplementedError

    def cancel(self, connection: Channel, number: int) -> None:
        """Cancel request `number` of `connection`."""
        raise NotImplementedError

    def abandoned(self, connection: Channel) -> None:
        """Cancel all requests of `connection`, which is closed."""
        raise NotImplementedError

    # -- lifecycle --------------------------------------------------------------------------

    async def listen(self) -> None:
        """Listen on the socket of the spec. Only this user may connect."""
        mask = os.umask(0o177)
        try:
            self._listener = await self._loop.create_unix_server(
                self.connection, self._spec.socket, backlog=128
            )
        finally:
            os.umask(mask)

    async def drain(self) -> None:
        """Accept no more connections, answer all accepted requests, and close.

        Gateways receive GOAWAY, and close their connection when all their requests are answered.
        The remaining connections are closed after the spec's `drain_s` seconds.
        """
        self.is_draining = True
        if self._listener is not None:
            self._listener.close()
        for connection in self._connections:
            connection.send(pack_json(FrameKind.GOAWAY, {}))
        try:
            async with asyncio.timeout(self._spec.drain_s):
                while self._connections or self.is_busy:
                    self.idle.clear()
                    await self.idle.wait()
        except TimeoutError:
            log.warning("draining timed out with %d open connections", len(self._connections))
        for connection in list(self._connections):
            connection.close()

    def stats(self) -> dict[str, Any]:
        """Statistics for the answer to a ping."""
        return {
            "pid": os.getpid(),
            "rss_bytes": self._process.memory_info().rss,
            "draining": self.is_draining,
        }

    # -- connections ------------------------------------------------------------------------

    def connected(self, connection: Channel) -> None:
        self._connections.add(connection)
        if self.is_draining:
            connection.send(pack_json(FrameKind.GOAWAY, {}))

    def disconnected(self, connection: Channel) -> None:
        self._connections.discard(connection)
        self.abandoned(connection)
        self.idle.set()


class ReplicaConnection(Channel):
    """A connection from a gateway or from control.

    Subclasses handle the frames with requests. This class handles cancellations and pings.
    """

    def __init__(self, server: ReplicaSocket) -> None:
        super().__init__()
        self._socket = server

    def opened(self) -> None:
        self._socket.connected(self)

    def closed(self, reason: Exception | None) -> None:
        self._socket.disconnected(self)

    def fail(self, number: int, error: MaasError) -> None:
        self.send(pack_failure(Failure(number, error)))

    def frame_received(self, kind: int, body: memoryview) -> None:
        if kind == FrameKind.CANCEL:
            for number in unpack_cancel(body):
                self._socket.cancel(self, number)
        elif kind == FrameKind.PING:
            self.send(pack_json(FrameKind.PONG, unpack_json(body) | self._socket.stats()))
        else:
            raise ProtocolViolation(f"unexpected frame of kind {kind}")
