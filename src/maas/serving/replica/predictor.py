"""A replica: takes requests from its connections, batches them late, runs the model, answers."""

from __future__ import annotations

import logging
import time
from array import array
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from maas.domain.deployments import ReplicaSpec
from maas.domain.errors import DeadlineExceeded, InferenceFailed, MaasError, Overloaded
from maas.runtimes.base import Arrays
from maas.serving.replica.batching import Batcher, Timing
from maas.serving.replica.queue import FairQueue, PartProgress, RequestGroup
from maas.serving.replica.replica_socket import ReplicaConnection, ReplicaSocket
from maas.serving.wire.channel import Channel
from maas.serving.wire.messages import (
    Buffer,
    FrameKind,
    Infer,
    Priority,
    ProtocolViolation,
    pack_answers,
    pack_progress,
    unpack_infer,
)

log = logging.getLogger(__name__)

INLINE_SECONDS = 0.002
"""A batch that is expected to take longer runs in a thread, so that the loop keeps answering
pings and taking cancellations; a shorter one is not worth the hand-over."""
LOW_PRIORITY_ROWS = 32
"""Most rows of a low-priority batch, so that ordinary requests need not wait long behind one."""
PART_SECONDS = 0.1
"""About how long a part of a long request takes; others have their turn before the next."""
FIRST_ROWS = 8
"""Of the first part where a row may take any time; after it the request's own pace is known."""
LONG_BYTES = 16_384
"""Of text, images or sound: a request of more that has several rows is worked through in parts."""

_PRIORITIES = (Priority.NORMAL, Priority.LOW, Priority.NORMAL)
"""By their numbers in frames: a proof waits its turn as everybody's requests do."""


class ReplicaServer(ReplicaSocket):
    """The queue, the model and the connections of one replica."""

    def __init__(self, spec: ReplicaSpec, batcher: Batcher) -> None:
        super().__init__(spec)
        self._batcher = batcher
        self._queue = FairQueue(
            spec.scaling.queue_limit, [s.datatype == "BYTES" for s in spec.signature.inputs]
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._busy = self._is_closed = False
        self._busy_since = 0.0
        self._suspects: deque[list[RequestGroup]] = deque()
        """Parts of batches that failed, to be tried by themselves."""
        self._unwanted: set[tuple[Channel, int]] = set()
        """Requests that were cancelled since the last batch was taken from the queue."""
        self.answers_alone = any(s.datatype == "BYTES" for s in spec.signature.outputs)
        """True if BYTES outputs, whose rows differ in size, force one frame per answer."""
        self._is_steady = not spec.signature.has_bytes
        """False if one row may take a thousand times as long as another: text, images, sound."""
        self._seconds_per_row = 0.0
        self._served = 0

    # -- life -------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        return self._busy

    def connection(self) -> Channel:
        return _Connection(self)

    def abandoned(self, connection: Channel) -> None:
        self._queue.cancel_all(connection)

    async def drain(self) -> None:
        await super().drain()
        if not self._is_closed:
            self._is_closed = True
            self._thread.submit(self._batcher.close)
            self._thread.shutdown(wait=False)

    def stats(self) -> dict[str, Any]:
        return super().stats() | {
            "served": self._served,
            "queued": self._queue.waiting,
            "busy_s": self._busy_s(),
        }

    def _busy_s(self) -> float:
        """Seconds since the model began its batch, or last showed that it gets on with it, less
        those that it may be silent for."""
        if not self._busy:
            return 0.0
        batcher = self._batcher
        since = max(self._busy_since, batcher.last_progress) + batcher.silent_seconds
        return max(0.0, time.monotonic() - since)

    # -- requests ---------------------------------------------------------------------------

    def accept(self, parcel: RequestGroup) -> None:
        room = self._queue.room
        if room < len(parcel):
            parcel, refused = parcel.split(max(0, room))
            wait = max(1.0, self._seconds_per_row * self._queue.waiting)
            error = Overloaded(
                f"{self._spec.deployment} has {self._queue.limit} requests waiting, which is its "
                "limit",
                retry_after=wait,
            )
            for number in refused.ids:
                refused.owner.fail(number, error)
        if len(parcel):
            self._queue.put(parcel)

    def cancel(self, connection: Channel, number: int) -> None:
        """Whoever cancels is told when nothing more is computed of it, by this or by an answer."""
        found = self._queue.cancel(connection, number)
        self._unwanted.add((connection, number))
        if found is not None and (found.parts is None or not found.parts.is_running):
            connection.send(pack_progress(number, 0, is_last=True))

    def parts_of(self, rows: int, columns: list[Buffer]) -> PartProgress | None:
        """For one request: in which parts it is worked through; None if it fits a batch."""
        size = sum(map(len, columns))
        is_much = rows > self._batcher.max_rows or size > LONG_BYTES
        may_be_cut = rows > FIRST_ROWS and not self._is_steady
        return PartProgress(rows, FIRST_ROWS) if may_be_cut and is_much else None

    def work(self) -> None:
        """Start the next batch if the model is free."""
        if self._busy:
            return
        batch = self._next_batch()
        if not batch:
            return
        self._busy = True
        self._busy_since = time.monotonic()
        if batch[0].parts is not None:
            batch[0].parts.is_running = True
        rows = sum(parcel.total_rows for parcel in batch)
        expected = self._seconds_per_row * rows
        if self._is_steady and 0 < expected < INLINE_SECONDS:
            self._finish(batch, *_attempt(self._batcher.run, batch))
            return
        future = self._loop.run_in_executor(self._thread, _attempt, self._batcher.run, batch)
        future.add_done_callback(lambda done: self._finish(batch, *done.result()))

    def _next_batch(self) -> list[RequestGroup]:
        """Late-formed: what waits now. Who is past its deadline is told so and not computed."""
        while True:
            if self._suspects:
                batch = [
                    part
                    for parcel in self._suspects.popleft()
                    for part in self._still_wanted(parcel)
                ]
            else:
                self._unwanted.clear()
                batch = self._queue.take(self._batcher.max_rows, LOW_PRIORITY_ROWS)
                if not batch:
                    return []
            now = time.monotonic()
            alive = [part for parcel in batch for part in self._in_time(parcel, now)]
            if alive:
                return alive

    def _still_wanted(self, parcel: RequestGroup) -> list[RequestGroup]:
        gone = {
            place
            for place, number in enumerate(parcel.ids)
            if (parcel.owner, number) in self._unwanted or not parcel.owner.is_open
        }
        for place in gone:
            if parcel.owner.is_open:
                parcel.owner.send(pack_progress(parcel.ids[place], 0, is_last=True))
        return parcel.without(gone) if gone else [parcel]

    def _in_time(self, parcel: RequestGroup, now: float) -> list[RequestGroup]:
        if min(parcel.deadlines) > now:
            return [parcel]
        late = {place for place, deadline in enumerate(parcel.deadlines) if deadline <= now}
        for place in late:
            passed = DeadlineExceeded("the request's deadline passed in the queue")
            parcel.owner.fail(parcel.ids[place], passed)
            if parcel.parts is not None:
                self._queue.cancel(parcel.owner, parcel.ids[place])
        return parcel.without(late)

    def _finish(
        self,
        batch: list[RequestGroup],
        outcome: Arrays | MaasError,
        started: float,
        finished: float,
    ) -> None:
        """Answer a batch, or split it if it failed; then go on with what waits."""
        rows = sum(parcel.total_rows for parcel in batch)
        latest = (finished - started) / rows
        known = self._seconds_per_row
        self._seconds_per_row = latest if not known else known + 0.2 * (latest - known)
        try:
            if batch[0].parts is not None:
                self._part_done(batch[0], batch[0].parts, (outcome, started, finished))
            elif not isinstance(outcome, MaasError):
                self._answer(batch, outcome, Timing(started, finished, rows))
            elif len(batch) == 1 and len(batch[0]) == 1:
                batch[0].owner.fail(batch[0].ids[0], outcome)
            else:
                # One bad input must not cost its batch-mates their answers: halve until it is
                # alone, a batch at a time, so that pings and cancellations come in between.
                self._suspects.extend(_halves(batch))
        except Exception:
            log.exception("a batch could not be answered")
            unsent = InferenceFailed("the model's answer could not be sent")
            for parcel in batch:
                for number in parcel.ids:
                    parcel.owner.fail(number, unsent)
        finally:
            self._busy = False
            if self._queue.waiting or self._suspects:
                # In a new tick, so that what arrived meanwhile joins the batch, and cancels count.
                self._loop.call_soon(self.work)
            elif self.is_draining:
                self.idle.set()

    def _part_done(
        self, part: RequestGroup, parts: PartProgress, done: tuple[Arrays | MaasError, float, float]
    ) -> None:
        """Answer a request if this was its last part; otherwise tell what it has taken so far, so
        that it is counted whatever becomes of it."""
        outcome, started, finished = done
        owner: _Connection = part.owner
        number = part.ids[0]
        parts.is_running = False
        if isinstance(outcome, MaasError):
            self._queue.cancel(owner, number)
            owner.fail(number, outcome)
            return
        parts.done(outcome, part.total_rows, started, finished)
        if (owner, number) in self._unwanted or parts.left:
            took = int((finished - started) * 1e6)
            parts.next_rows = max(1, int(PART_SECONDS * parts.rows_done / max(parts.seconds, 1e-9)))
            owner.send(pack_progress(number, took, is_last=(owner, number) in self._unwanted))
            return
        try:
            outputs = self._batcher.joined(parts.outputs)
        except MaasError as error:
            owner.fail(number, error)
            return
        whole = replace(part, rows=array("I", [parts.rows]), total_rows=parts.rows)
        timing = Timing(parts.started, parts.started + parts.seconds, parts.rows)
        self._answer([whole], outputs, timing)

    def _answer(self, batch: list[RequestGroup], outputs: Arrays, timing: Timing) -> None:
        """One frame per connection; runs of parcels of one connection own runs of rows."""
        if self.answers_alone:
            batch = [parcel.part(at, at + 1) for parcel in batch for at in range(len(parcel))]
        start = first_row = 0
        while start < len(batch):
            owner: _Connection = batch[start].owner
            end = start + 1
            while end < len(batch) and batch[end].owner is owner and not self.answers_alone:
                end += 1
            run = batch[start:end]
            self._served += sum(map(len, run))
            if owner.is_open:
                frame = pack_answers(self._batcher.answers(run, outputs, first_row, timing))
                (owner.send_now if len(run) == len(batch) else owner.send)(frame)
            first_row += sum(parcel.total_rows for parcel in run)
            start = end


def _halves(batch: list[RequestGroup]) -> tuple[list[RequestGroup], list[RequestGroup]]:
    if len(batch) == 1:
        first, second = batch[0].split(len(batch[0]) // 2)
        return [first], [second]
    middle = len(batch) // 2
    return batch[:middle], batch[middle:]


def _attempt(
    run: Callable[[list[RequestGroup]], Arrays], batch: list[RequestGroup]
) -> tuple[Arrays | MaasError, float, float]:
    """The outputs or why there are none, and when the model started and ended."""
    started = time.monotonic()
    outcome: Arrays | MaasError
    try:
        outcome = run(batch)
    except MaasError as error:
        outcome = error
    except Exception:
        # A model may raise anything; one that does must not end the replica's work.
        log.exception("the model raised")
        outcome = InferenceFailed("the model failed on this input")
    return outcome, started, time.monotonic()


class _Connection(ReplicaConnection):
    def __init__(self, server: ReplicaServer) -> None:
        super().__init__(server)
        self._server = server

    def frame_received(self, kind: int, body: memoryview) -> None:
        if kind == FrameKind.INFER:
            for parcel in self._parcels(unpack_infer(body)):
                self._server.accept(parcel)
            # Not now but at the end of the tick: other connections' frames may join the batch.
            self._loop.call_soon(self._server.work)
        else:
            super().frame_received(kind, body)

    def _parcels(self, message: Infer) -> list[RequestGroup]:
        """The requests of a frame, those of one tenant and priority together."""
        count = len(message.ids)
        total = sum(message.rows)
        if total == 0 or 0 in message.rows:
            raise ProtocolViolation("a request without rows")
        if max(message.priorities) >= len(_PRIORITIES):
            raise ProtocolViolation(f"there is no priority {max(message.priorities)}")
        if count > 1 and any(len(column.data) % total for column in message.columns):
            raise ProtocolViolation("the rows of a column differ in size")
        whole = RequestGroup(
            ids=message.ids,
            rows=message.rows,
            deadlines=message.deadlines,
            tenant=message.tenants[0],
            priority=_PRIORITIES[message.priorities[0]],
            shapes=tuple(column.shape for column in message.columns),
            # The frame's bytes are only lent to us, and the requests outlive it.
            columns=[bytes(column.data) for column in message.columns],
            owner=self,
            arrived=time.monotonic(),
            total_rows=total,
        )
        senders = list(zip(message.tenants, message.priorities, strict=True))
        if count == 1:
            whole.parts = self._server.parts_of(total, whole.columns)
        if senders.count(senders[0]) == count:
            return [whole]
        parcels = []
        for sender in dict.fromkeys(senders):
            others = {place for place, who in enumerate(senders) if who != sender}
            for part in whole.without(others):
                part.tenant, part.priority = sender[0], _PRIORITIES[sender[1]]
                parcels.append(part)
        return parcels
