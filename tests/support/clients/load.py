"""A small load generator that checks every answer, in a closed loop or an open loop at a rate.

Every request has a number that its answer must repeat. An answer that belongs to another request
is a mismatch. Each outcome is counted.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import uvloop


@dataclass
class Report:
    outcomes: Counter[str] = field(default_factory=Counter)
    """Number of answers by status, and of `lost` requests, whose connection closed early."""
    mismatches: int = 0
    unanswered: int = 0
    """Requests without an answer after the run and its grace period."""
    latencies: dict[str, list[float]] = field(default_factory=dict)
    """Latencies in seconds, by outcome."""
    finished: list[tuple[float, str]] = field(default_factory=list)
    """(time.monotonic(), outcome) of every answer, in order."""
    without_retry_after: int = 0
    """Number of refusals (429, 503) without Retry-After."""
    samples: dict[str, bytes] = field(default_factory=dict)
    """One answer for each outcome."""

    @property
    def total(self) -> int:
        return sum(self.outcomes.values())

    def errors(self) -> dict[str, int]:
        return {k: v for k, v in self.outcomes.items() if k != "200"}


@dataclass
class LoadTarget:
    port: int
    path: str
    token: str
    body: Callable[[int], bytes] = lambda number: (
        b'{"x":[%d,%d]}'
        % (
            number >> 20,
            number & 0xFFFFF,
        )
    )
    check: Callable[[int, bytes], bool] = lambda number, answer: (
        json.loads(answer)["y"]
        == [
            number >> 20,
            number & 0xFFFFF,
        ]
    )

    def request(self, number: int) -> bytes:
        body = self.body(number)
        return (
            f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            f"Authorization: Bearer {self.token}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body


class _Connection(asyncio.Protocol):
    """Sends one request at a time, and calls `idle` when ready for the next one."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._buffer = b""
        self._number = -1
        self._sent = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._run.idle(self)

    def send(self, number: int, started: float) -> None:
        if self._transport is None:
            raise RuntimeError("not connected")
        self._number, self._sent = number, started
        self._transport.write(self._run.target.request(number))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        lower = head.lower()
        length = int(lower.partition(b"content-length: ")[2].partition(b"\r")[0])
        if len(body) < length:
            return
        self._buffer = body[length:]
        number, self._number = self._number, -1
        status = head[9:12].decode()
        self._run.answered(number, self._sent, status, body[:length], lower)
        if b"connection: close" in lower:
            if self._transport is not None:
                self._transport.close()
        else:
            self._run.idle(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._number >= 0:
            self._run.lost(self._number, self._sent)
            self._number = -1
        self._run.closed(self)


def _returned(connection: _Connection) -> _Connection:
    return connection


class _Run:
    def __init__(self, target: LoadTarget, connections: int, first: int) -> None:
        self.target = target
        self.report = Report()
        self.stopping = False
        self._next = first
        self._connections = connections
        self._open: set[_Connection] = set()
        self._idle: deque[_Connection] = deque()
        self._due: deque[float] = deque()
        self._in_flight = 0
        self._closed_loop = True
        self._limit: int | None = None

    def idle(self, connection: _Connection) -> None:
        if self.stopping or (self._limit is not None and self._next >= self._limit):
            self._idle.append(connection)
        elif self._closed_loop:
            self._send(connection, time.monotonic())
        elif self._due:
            self._send(connection, self._due.popleft())
        else:
            self._idle.append(connection)

    def offer(self, when: float) -> None:
        """Send one more request in an open loop. Its latency counts from `when`."""
        if self._idle:
            self._send(self._idle.popleft(), when)
        else:
            self._due.append(when)

    def _send(self, connection: _Connection, started: float) -> None:
        number = self._next
        self._next += 1
        self._in_flight += 1
        connection.send(number, started)

    def answered(self, number: int, sent: float, status: str, body: bytes, head: bytes) -> None:
        self._in_flight -= 1
        self._count(status, sent)
        if status == "200" and not self.target.check(number, body):
            self.report.mismatches += 1
        if status in ("429", "503") and b"retry-after:" not in head:
            self.report.without_retry_after += 1
        self.report.samples.setdefault(status, body)

    def lost(self, number: int, sent: float) -> None:
        self._in_flight -= 1
        self._count("lost", sent)

    def _count(self, outcome: str, sent: float) -> None:
        now = time.monotonic()
        self.report.outcomes[outcome] += 1
        self.report.latencies.setdefault(outcome, []).append(now - sent)
        self.report.finished.append((now, outcome))

    def closed(self, connection: _Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    async def keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.stopping:
            while len(self._open) < self._connections and not self.stopping:
                connection = _Connection(self)
                self._open.add(connection)
                try:
                    await loop.create_connection(
                        partial(_returned, connection), "127.0.0.1", self.target.port
                    )
                except OSError:
                    self._open.discard(connection)
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.005)

    async def finish(self, grace_s: float) -> Report:
        self.stopping = True
        end = time.monotonic() + grace_s
        while self._in_flight and time.monotonic() < end:
            await asyncio.sleep(0.01)
        self.report.unanswered = self._in_flight
        return self.report

    async def closed_loop(self, seconds: float, count: int | None, stop: asyncio.Event) -> Report:
        self._limit = self._next + count if count is not None else None
        keeper = asyncio.ensure_future(self.keep_connected())
        end = time.monotonic() + seconds
        while time.monotonic() < end and not stop.is_set():
            if self._limit is not None and self._next >= self._limit:
                break
            await asyncio.sleep(0.01)
        report = await self.finish(30)
        keeper.cancel()
        return report

    async def open_loop(self, rate: float, seconds: float, stop: asyncio.Event) -> Report:
        self._closed_loop = False
        keeper = asyncio.ensure_future(self.keep_connected())
        await asyncio.sleep(0.2)
        started = time.monotonic()
        offered = 0
        while time.monotonic() - started < seconds and not stop.is_set():
            while offered < (time.monotonic() - started) * rate:
                self.offer(started + offered / rate)
                offered += 1
            await asyncio.sleep(0.001)
        end = time.monotonic() + 30
        while self._due and time.monotonic() < end:
            await asyncio.sleep(0.01)
        report = await self.finish(30)
        keeper.cancel()
        return report


async def closed_loop(
    target: LoadTarget,
    connections: int,
    seconds: float,
    *,
    count: int | None = None,
    first: int = 0,
    stop: asyncio.Event | None = None,
) -> Report:
    """Run a closed loop: each connection sends its next request when it has an answer."""
    run = _Run(target, connections, first)
    return await run.closed_loop(seconds, count, stop or asyncio.Event())


async def open_loop(
    target: LoadTarget,
    rate: float,
    seconds: float,
    *,
    connections: int = 64,
    first: int = 0,
    stop: asyncio.Event | None = None,
) -> Report:
    """Run an open loop of `rate` requests per second. Latency counts from when each was due."""
    run = _Run(target, connections, first)
    return await run.open_loop(rate, seconds, stop or asyncio.Event())


run_load = uvloop.run
