"""A replica: takes requests from its connections, batches them late, runs the model, answers."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil

from maas.domain.deployments import ReplicaSpec
from maas.domain.errors import DeadlineExceeded, InferenceFailed, MaasError, Overloaded
from maas.runtimes.base import Arrays
from maas.serving.batching import Batcher, Timing
from maas.serving.channel import Channel
from maas.serving.messages import (
    Failure,
    FrameKind,
    Priority,
    ProtocolViolation,
    pack_answers,
    pack_failure,
    pack_json,
    unpack_cancel,
    unpack_infer,
    unpack_json,
)
from maas.serving.queue import Entry, FairQueue

log = logging.getLogger(__name__)

INLINE_SECONDS = 0.002
"""A batch that is expected to take longer runs in a thread, so that the loop keeps answering
pings and taking cancellations; a shorter one is not worth the hand-over."""
LOW_PRIORITY_ROWS = 32
"""Most rows of a low-priority batch, so that ordinary requests need not wait long behind one."""


_PRIORITIES = tuple(Priority)


class ReplicaServer:
    """The queue, the model and the connections of one replica."""

    def __init__(self, spec: ReplicaSpec, batcher: Batcher) -> None:
        self._spec = spec
        self._batcher = batcher
        self._queue = FairQueue(spec.scaling.queue_limit)
        self._connections: set[_Connection] = set()
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._busy = False
        self._busy_since = 0.0
        self._suspects: deque[list[Entry]] = deque()
        """Parts of batches that failed, to be tried by themselves."""
        self._seconds_per_row = 0.0
        self._served = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._process = psutil.Process()
        self._listener: asyncio.Server | None = None

    # -- life -------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Accept connections on the spec's socket; only this user may connect."""
        mask = os.umask(0o177)
        try:
            self._listener = await self._loop.create_unix_server(
                lambda: _Connection(self), self._spec.socket, backlog=128
            )
        finally:
            os.umask(mask)

    async def drain(self) -> None:
        """Tell everybody to go elsewhere, answer all that was accepted, and stop.

        Gateways close their connection when they are owed nothing more; after the spec's
        `drain_s` whoever is left is cut off.
        """
        self._draining = True
        if self._listener is not None:
            self._listener.close()
        for connection in self._connections:
            connection.send(pack_json(FrameKind.GOAWAY, {}))
        try:
            async with asyncio.timeout(self._spec.drain_s):
                while self._connections or self._busy:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            log.warning("drain ended with %d connections open", len(self._connections))
        for connection in list(self._connections):
            connection.close()
        self._thread.shutdown(wait=False)

    def stats(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "served": self._served,
            "queued": self._queue.waiting,
            "busy_s": time.monotonic() - self._busy_since if self._busy else 0.0,
            "rss_bytes": self._process.memory_info().rss,
            "draining": self._draining,
        }

    # -- connections ------------------------------------------------------------------------

    def connected(self, connection: _Connection) -> None:
        self._connections.add(connection)
        if self._draining:
            connection.send(pack_json(FrameKind.GOAWAY, {}))

    def disconnected(self, connection: _Connection) -> None:
        """Nobody is left to answer to, so nothing of theirs is computed."""
        self._connections.discard(connection)
        for entry in connection.entries.values():
            self._queue.cancel(entry)
        connection.entries.clear()
        self._idle.set()

    def accept(self, entry: Entry, connection: _Connection) -> None:
        if self._queue.is_full:
            wait = self._seconds_per_row * self._queue.waiting
            connection.fail(
                entry.id,
                Overloaded(
                    f"{self._spec.deployment} has {self._queue.waiting} requests waiting, "
                    "which is its limit",
                    retry_after=max(1.0, wait),
                ),
            )
            return
        connection.entries[entry.id] = entry
        self._queue.put(entry)

    def cancel(self, entry: Entry) -> None:
        self._queue.cancel(entry)

    def work(self) -> None:
        """Start the next batch if the model is free."""
        if self._busy:
            return
        entries = self._next_batch()
        if not entries:
            return
        self._busy = True
        self._busy_since = time.monotonic()
        rows = sum(entry.rows for entry in entries)
        if self._seconds_per_row and self._seconds_per_row * rows < INLINE_SECONDS:
            self._finish(entries, *_attempt(self._batcher.run, entries))
            return
        future = self._loop.run_in_executor(self._thread, _attempt, self._batcher.run, entries)
        future.add_done_callback(lambda done: self._finish(entries, *done.result()))

    def _next_batch(self) -> list[Entry]:
        """Late-formed: what waits now. Who is past its deadline is told so and not computed."""
        while True:
            if self._suspects:
                entries = [entry for entry in self._suspects.popleft() if not entry.cancelled]
            else:
                entries = self._queue.take(self._spec.scaling.max_batch, LOW_PRIORITY_ROWS)
                if not entries:
                    return []
            now = time.monotonic()
            late = [entry for entry in entries if entry.deadline <= now]
            for entry in late:
                self._fail(entry, DeadlineExceeded("the request's deadline passed in the queue"))
            alive = [entry for entry in entries if entry not in late] if late else entries
            if alive:
                return alive

    def _finish(
        self, entries: list[Entry], outcome: Arrays | MaasError, started: float, finished: float
    ) -> None:
        """Answer a batch, or split it if it failed; then go on with what waits."""
        rows = sum(entry.rows for entry in entries)
        latest = (finished - started) / rows
        known = self._seconds_per_row
        self._seconds_per_row = latest if not known else known + 0.2 * (latest - known)
        try:
            if not isinstance(outcome, MaasError):
                self._answer(entries, outcome, Timing(started, finished, rows))
            elif len(entries) == 1:
                self._fail(entries[0], outcome)
            else:
                # One bad input must not cost its batch-mates their answers: halve until it is
                # alone, a batch at a time, so that pings and cancellations come in between.
                middle = len(entries) // 2
                self._suspects.append(entries[:middle])
                self._suspects.append(entries[middle:])
        except Exception:
            log.exception("a batch could not be answered")
            for entry in entries:
                self._fail(entry, InferenceFailed("the model's answer could not be sent"))
        finally:
            self._busy = False
            if self._queue.waiting or self._suspects:
                # In a new tick, so that what arrived meanwhile joins the batch, and cancels count.
                self._loop.call_soon(self.work)
            elif self._draining:
                self._idle.set()

    def _answer(self, entries: list[Entry], outputs: Arrays, timing: Timing) -> None:
        """One frame per connection; runs of entries of one connection own runs of rows."""
        self._served += len(entries)
        start = first_row = 0
        while start < len(entries):
            owner: _Connection = entries[start].owner
            end = start + 1
            while end < len(entries) and entries[end].owner is owner and not owner.alone:
                end += 1
            run = entries[start:end]
            if owner.is_open:
                owner.send(pack_answers(self._batcher.answers(run, outputs, first_row, timing)))
                for entry in run:
                    owner.entries.pop(entry.id, None)
            first_row += sum(entry.rows for entry in run)
            start = end

    def _fail(self, entry: Entry, error: MaasError) -> None:
        owner: _Connection = entry.owner
        owner.entries.pop(entry.id, None)
        owner.fail(entry.id, error)

    @property
    def answers_alone(self) -> bool:
        return any(spec.datatype == "BYTES" for spec in self._spec.signature.outputs)


def _attempt(
    run: Callable[[list[Entry]], Arrays], entries: list[Entry]
) -> tuple[Arrays | MaasError, float, float]:
    """The outputs or why there are none, and when the model started and ended."""
    started = time.monotonic()
    outcome: Arrays | MaasError
    try:
        outcome = run(entries)
    except MaasError as error:
        outcome = error
    except Exception:
        # A model may raise anything; one that does must not end the replica's work.
        log.exception("the model raised")
        outcome = InferenceFailed("the model failed on this input")
    return outcome, started, time.monotonic()


class _Connection(Channel):
    """One gateway, or control, connected to this replica."""

    def __init__(self, server: ReplicaServer) -> None:
        super().__init__()
        self._server = server
        self.entries: dict[int, Entry] = {}
        self.alone = server.answers_alone
        """True if BYTES outputs force one frame per answer."""

    def opened(self) -> None:
        self._server.connected(self)

    def closed(self, reason: Exception | None) -> None:
        self._server.disconnected(self)

    def fail(self, entry_id: int, error: MaasError) -> None:
        self.send(pack_failure(Failure(entry_id, error)))

    def frame_received(self, kind: int, body: memoryview) -> None:
        if kind == FrameKind.INFER:
            self._infer_received(body)
        elif kind == FrameKind.CANCEL:
            for number in unpack_cancel(body):
                entry = self.entries.pop(number, None)
                if entry is not None:
                    self._server.cancel(entry)
        elif kind == FrameKind.PING:
            self.send(pack_json(FrameKind.PONG, unpack_json(body) | self._server.stats()))
        else:
            raise ProtocolViolation(f"unexpected frame of kind {kind}")

    def _infer_received(self, body: memoryview) -> None:
        message = unpack_infer(body)
        shapes = tuple(column.shape for column in message.columns)
        total = sum(message.rows)
        if total == 0:
            raise ProtocolViolation("a request without rows")
        # The frame's buffer is only lent to us until we return if it came in pieces, and the
        # entries outlive it either way: one copy per column, shared by all its requests.
        datas = [bytes(column.data) for column in message.columns]
        sizes = [len(data) // total for data in datas]
        alone = len(message.ids) == 1
        if not alone and any(
            size * total != len(data) for size, data in zip(sizes, datas, strict=True)
        ):
            raise ProtocolViolation("the rows of a column differ in size")
        now = time.monotonic()
        row = 0
        server = self._server
        for number, rows, deadline, tenant, level in zip(
            message.ids,
            message.rows,
            message.deadlines,
            message.tenants,
            message.priorities,
            strict=True,
        ):
            columns: list[Any] = (
                datas
                if alone
                else [
                    data[row * size : (row + rows) * size]
                    for data, size in zip(datas, sizes, strict=True)
                ]
            )
            row += rows
            if level >= len(_PRIORITIES):
                raise ProtocolViolation(f"there is no priority {level}")
            priority = _PRIORITIES[level]
            server.accept(
                Entry(number, rows, deadline, tenant, priority, shapes, columns, self, now), self
            )
        # Not now but at the end of the tick: other connections' frames may join the batch.
        self._loop.call_soon(server.work)
