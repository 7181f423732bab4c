"""A replica that predicts: queues requests, forms a batch when the model is free, and answers."""

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
"""A batch that is expected to take longer runs in a thread, so that the loop keeps answering pings
and handling cancellations. A shorter one is not worth the thread switch."""
LOW_PRIORITY_ROWS = 32
"""Largest number of rows of a low-priority batch, so that other requests wait only briefly."""
PART_SECONDS = 0.1
"""Approximate duration of a part of a long request. Other requests run between two parts."""
FIRST_ROWS = 8
"""Rows of the first part if the time per row is unknown. Later parts use its measured time."""
LONG_BYTES = 16_384
"""Bytes of text, images or audio above which a request of several rows is computed in parts."""

_PRIORITIES = (Priority.NORMAL, Priority.LOW, Priority.NORMAL)
"""Priorities in the queue by their numbers in frames. PROOF is queued as NORMAL."""


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
        """Parts of failed batches, which are retried separately."""
        self._canceled: set[tuple[Channel, int]] = set()
        """Requests that were canceled since the last batch was taken from the queue."""
        self.answers_alone = any(s.datatype == "BYTES" for s in spec.signature.outputs)
        """Whether each answer needs its own frame, because rows of BYTES outputs differ in size."""
        self._is_steady = not spec.signature.has_bytes
        """Whether all rows take about the same time. A row of text, images or audio may take a
        thousand times as long as another."""
        self._seconds_per_row = 0.0
        """Moving average of the model's time per row; 0 before the first batch."""
        self._served = 0

    # -- lifecycle --------------------------------------------------------------------------

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
        """Seconds without progress of the model's current batch, beyond those that the runtime
        declares as normal."""
        if not self._busy:
            return 0.0
        batcher = self._batcher
        since = max(self._busy_since, batcher.last_progress) + batcher.silent_seconds
        return max(0.0, time.monotonic() - since)

    # -- requests ---------------------------------------------------------------------------

    def accept(self, group: RequestGroup) -> None:
        """Queue `group`; requests for which there is no room fail with Overloaded."""
        room = self._queue.room
        if room < len(group):
            group, refused = group.split(max(0, room))
            wait = max(1.0, self._seconds_per_row * self._queue.waiting)
            error = Overloaded(
                f"{self._spec.deployment} has {self._queue.limit} requests waiting, which is its "
                "limit",
                retry_after=wait,
            )
            for number in refused.ids:
                refused.owner.fail(number, error)
        if len(group):
            self._queue.put(group)

    def cancel(self, connection: Channel, number: int) -> None:
        """Cancel a request. A last PROGRESS frame, or an answer, confirms that its work ended."""
        group = self._queue.cancel(connection, number)
        self._canceled.add((connection, number))
        if group is not None and (group.parts is None or not group.parts.is_running):
            connection.send(pack_progress(number, 0, is_last=True))

    def parts_of(self, rows: int, columns: list[Buffer]) -> PartProgress | None:
        """The progress of a request that must be computed in parts; None if it need not be."""
        size = sum(map(len, columns))
        is_long = rows > self._batcher.max_rows or size > LONG_BYTES
        may_be_cut = rows > FIRST_ROWS and not self._is_steady
        return PartProgress(rows, FIRST_ROWS) if may_be_cut and is_long else None

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
        rows = sum(group.total_rows for group in batch)
        expected = self._seconds_per_row * rows
        if self._is_steady and 0 < expected < INLINE_SECONDS:
            self._finish(batch, *_attempt(self._batcher.run, batch))
            return
        future = self._loop.run_in_executor(self._thread, _attempt, self._batcher.run, batch)
        future.add_done_callback(lambda done: self._finish(batch, *done.result()))

    def _next_batch(self) -> list[RequestGroup]:
        """A batch of the requests that wait now; [] if there are none. Requests whose deadline has
        passed fail and are not computed."""
        while True:
            batch: list[RequestGroup] = []
            if self._suspects:
                for group in self._suspects.popleft():
                    batch += self._without_canceled(group)
            else:
                self._canceled.clear()
                batch = self._queue.take(self._batcher.max_rows, LOW_PRIORITY_ROWS)
                if not batch:
                    return []
            now = time.monotonic()
            in_time = [part for group in batch for part in self._without_late(group, now)]
            if in_time:
                return in_time

    def _without_canceled(self, group: RequestGroup) -> list[RequestGroup]:
        canceled = {
            place
            for place, number in enumerate(group.ids)
            if (group.owner, number) in self._canceled or not group.owner.is_open
        }
        for place in canceled:
            if group.owner.is_open:
                group.owner.send(pack_progress(group.ids[place], 0, is_last=True))
        return group.without(canceled) if canceled else [group]

    def _without_late(self, group: RequestGroup, now: float) -> list[RequestGroup]:
        if min(group.deadlines) > now:
            return [group]
        late = {place for place, deadline in enumerate(group.deadlines) if deadline <= now}
        for place in late:
            error = DeadlineExceeded("the request's deadline passed in the queue")
            group.owner.fail(group.ids[place], error)
            if group.parts is not None:
                self._queue.cancel(group.owner, group.ids[place])
        return group.without(late)

    def _finish(
        self,
        batch: list[RequestGroup],
        outcome: Arrays | MaasError,
        started: float,
        finished: float,
    ) -> None:
        """Answer a batch, or split it if it failed; then start the next one."""
        rows = sum(group.total_rows for group in batch)
        latest = (finished - started) / rows
        average = self._seconds_per_row
        self._seconds_per_row = latest if not average else average + 0.2 * (latest - average)
        try:
            if batch[0].parts is not None:
                self._part_done(batch[0], batch[0].parts, (outcome, started, finished))
            elif not isinstance(outcome, MaasError):
                self._answer(batch, outcome, Timing(started, finished, rows))
            elif len(batch) == 1 and len(batch[0]) == 1:
                batch[0].owner.fail(batch[0].ids[0], outcome)
            else:
                # One bad input must not fail the other requests of its batch. The batch is halved
                # until the input is alone, one batch at a time, with pings and cancellations
                # handled in between.
                self._suspects.extend(_halves(batch))
        except Exception:
            log.exception("a batch could not be answered")
            unsent = InferenceFailed("the model's answer could not be sent")
            for group in batch:
                for number in group.ids:
                    group.owner.fail(number, unsent)
        finally:
            self._busy = False
            if self._queue.waiting or self._suspects:
                # In a new tick, so that requests and cancellations that arrived are included.
                self._loop.call_soon(self.work)
            elif self.is_draining:
                self.idle.set()

    def _part_done(
        self, part: RequestGroup, parts: PartProgress, done: tuple[Arrays | MaasError, float, float]
    ) -> None:
        """Answer a request after its last part; after others, report the work done, so that it is
        metered even if the request is never answered."""
        outcome, started, finished = done
        owner: _Connection = part.owner
        number = part.ids[0]
        parts.is_running = False
        if isinstance(outcome, MaasError):
            self._queue.cancel(owner, number)
            owner.fail(number, outcome)
            return
        parts.add(outcome, part.total_rows, started, finished)
        is_canceled = (owner, number) in self._canceled
        if is_canceled or parts.left:
            compute_us = int((finished - started) * 1e6)
            parts.next_rows = max(1, int(PART_SECONDS * parts.rows_done / max(parts.seconds, 1e-9)))
            owner.send(pack_progress(number, compute_us, is_last=is_canceled))
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
        """Send the answers of a batch, one frame for each run of groups of one connection."""
        if self.answers_alone:
            batch = [group.part(at, at + 1) for group in batch for at in range(len(group))]
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
            first_row += sum(group.total_rows for group in run)
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
    """The outputs or the error of a batch, and when the model started and finished."""
    started = time.monotonic()
    outcome: Arrays | MaasError
    try:
        outcome = run(batch)
    except MaasError as error:
        outcome = error
    except Exception:
        # A model may raise any exception, which must not stop the replica.
        log.exception("the model raised")
        outcome = InferenceFailed("the model failed on this input")
    return outcome, started, time.monotonic()


class _Connection(ReplicaConnection):
    def __init__(self, server: ReplicaServer) -> None:
        super().__init__(server)
        self._server = server

    def frame_received(self, kind: int, body: memoryview) -> None:
        if kind == FrameKind.INFER:
            for group in self._groups_of(unpack_infer(body)):
                self._server.accept(group)
            # At the end of the tick, so that frames of other connections join the batch.
            self._loop.call_soon(self._server.work)
        else:
            super().frame_received(kind, body)

    def _groups_of(self, message: Infer) -> list[RequestGroup]:
        """The requests of a frame, grouped by tenant and priority."""
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
            # Copied, because the requests outlive the channel's buffer.
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
        groups = []
        for sender in dict.fromkeys(senders):
            others = {place for place, other in enumerate(senders) if other != sender}
            for part in whole.without(others):
                part.tenant, part.priority = sender[0], _PRIORITIES[sender[1]]
                groups.append(part)
        return groups
