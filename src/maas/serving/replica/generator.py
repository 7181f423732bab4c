"""A replica that writes text: fair queue in front, frames of what its engine wrote behind."""

from __future__ import annotations

import asyncio
import logging
import time
from array import array
from collections import deque
from dataclasses import replace
from typing import Any

from maas.domain.deployments import ReplicaSpec
from maas.domain.errors import DeadlineExceeded, InvalidInput, MaasError, Overloaded
from maas.domain.generation import Ending, Piece
from maas.runtimes.base import EngineEvent, Generator
from maas.serving.replica.pending_sequences import (
    PendingSequence,
    PlainPrompts,
    TextRows,
    says_something,
)
from maas.serving.replica.queue import FairQueue, RequestGroup
from maas.serving.replica.replica_socket import ReplicaConnection, ReplicaSocket
from maas.serving.replica.step_inbox import StepInbox
from maas.serving.replica.stream_interval import STREAM_MS, StreamInterval
from maas.serving.wire.channel import Channel
from maas.serving.wire.generation_frames import Step, pack_pieces, unpack_generate
from maas.serving.wire.messages import (
    Buffer,
    Failure,
    FrameKind,
    Infer,
    Priority,
    pack_answers,
    pack_failure,
    pack_progress,
    unpack_infer,
)

log = logging.getLogger(__name__)

STUCK_SHARE = 0.02
"""An engine that uses less of a processor than this does not compute slowly: it waits."""
PREDICT_MAX_TOKENS = 256
"""Of an answer to /predict, unless the variant's option `predict_max_tokens` says otherwise."""


class GeneratorServer(ReplicaSocket):
    """The queue, the engine and the connections of one replica."""

    def __init__(self, spec: ReplicaSpec, generator: Generator) -> None:
        super().__init__(spec)
        self._generator = generator
        longest = int(spec.options.get("predict_max_tokens", PREDICT_MAX_TOKENS))
        self.prompts = PlainPrompts(generator.has_chat_template, longest)
        self._queue = FairQueue(spec.scaling.queue_limit)
        self._jobs: dict[int, PendingSequence] = {}
        """All that is owed, by key."""
        self._running: set[int] = set()
        self._head: PendingSequence | None = None
        """Whose turn it is, if the engine has no room for it yet."""
        self._last_key = 0
        self._inbox = StepInbox(self._loop, generator, lambda: len(self._running), self._collect)
        self._pace = StreamInterval(int(spec.options.get("stream_ms", STREAM_MS)))
        self._engine_keeps_pace = generator.defer_output(self._pace.is_time)
        self._unsent: dict[int, PendingSequence] = {}
        """Who wrote something that has not left, by key."""
        self._sends_later: asyncio.TimerHandle | None = None
        self._last_step = self._cpu_at_step = 0.0
        self._share = self._shared_at = 0.0
        """Seconds of the engine that each of those that run has had, were it here from the start;
        and when this was last brought up to date."""
        self._seconds_per_job = 0.0
        """Moving average of a sequence's time in the engine, over those that shared it."""
        self._served = self._prompt_tokens = self._completion_tokens = 0

    # -- life -------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        return bool(self._jobs)

    def connection(self) -> Channel:
        return _Connection(self)

    def abandoned(self, connection: Channel) -> None:
        for job in [job for job in self._jobs.values() if job.owner is connection]:
            self._end_early(job)

    async def drain(self) -> None:
        self._pace.end()  # what is kept when the time is up would be lost
        self._send([], {})
        await super().drain()
        self._inbox.close()
        # What is cut off here still holds a thread; the process could not end with it.
        await asyncio.to_thread(self._generator.close)

    def stats(self) -> dict[str, Any]:
        return super().stats() | {
            "served": self._served,
            "queued": len(self._jobs) - len(self._running),
            "running": len(self._running),
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "busy_s": self._busy_s() if self._running else 0.0,
        }

    def _busy_s(self) -> float:
        """Seconds since the engine last got on: a long answer is no hang. On a machine that has
        no time for it, what counts is the time that it had."""
        waited = time.monotonic() - self._last_step
        computed = (time.process_time() - self._cpu_at_step) / self._spec.scaling.threads
        return waited if computed < STUCK_SHARE * waited else min(waited, computed)

    # -- requests ---------------------------------------------------------------------------

    def accept(self, jobs: list[PendingSequence]) -> None:
        """All jobs of one request, or none if there is no room for them to wait."""
        if len(jobs) > self._queue.limit:
            most = f"{self._spec.deployment} takes at most {self._queue.limit} texts at a time"
            _fail(jobs[0], InvalidInput(f"{most}; got {len(jobs)}"))
            return
        if jobs[0].priority is not Priority.PROOF and self._queue.room < len(jobs):
            waiting = f"{self._queue.waiting} sequences waiting of at most {self._queue.limit}"
            wait = max(1.0, self._seconds_per_job * self._queue.waiting)
            error = Overloaded(f"{self._spec.deployment} has {waiting}", retry_after=wait)
            _fail(jobs[0], error)
            return
        for job in jobs:
            job.key = self._last_key = self._last_key + 1
            self._jobs[job.key] = job
            if job.priority is Priority.PROOF:
                self._begin(job)
            else:
                self._queue.put(_parcel(job))
        self._loop.call_soon(self._start_waiting)

    def cancel(self, connection: Channel, number: int) -> None:
        jobs = [j for j in self._jobs.values() if j.owner is connection and j.number == number]
        for job in jobs:
            if job.rows is not None:
                job.rows.is_cancelled = True
            self._end_early(job)

    def _end_early(self, job: PendingSequence) -> None:
        if job.key in self._running:
            self._generator.cancel(job.key)  # it tells us what it took
            return
        self._queue.cancel(job.owner, job.key)
        if self._head is job:
            self._head = None
        self._forget(job)
        if job.rows is not None:
            self._finish_row(job, Ending("cancelled", 0, 0), 0.0)
        elif job.owner.is_open:
            step: Step = (job.number, Piece(), Ending("cancelled", 0, 0))
            job.owner.send(pack_pieces([step]))

    def _start_waiting(self) -> None:
        """Give the engine as much as it can do at once, in the order of the queue."""
        while len(self._running) < self._generator.slots:
            job = self._head or self._next()
            self._head = None
            if job is None:
                return
            if job.deadline <= time.monotonic():
                self._forget(job)
                late = DeadlineExceeded("the request's deadline passed in the queue")
                if job.rows is not None:
                    self._finish_row(job, late, 0.0)
                else:
                    _fail(job, late)
            elif self._generator.has_room(job.generation) or not self._running:
                self._begin(job)
            else:
                self._head = job
                return

    def _next(self) -> PendingSequence | None:
        for parcel in self._queue.take(1):
            return self._jobs[parcel.ids[0]]
        return None

    def _begin(self, job: PendingSequence) -> None:
        job.started = time.monotonic()
        if job.rows is not None and not job.rows.started:
            job.rows.started = job.started
        if not self._running:
            self._got_on()
        self._share_time()
        job.share_before = self._share
        self._running.add(job.key)
        self._generator.start(job.key, job.generation, self._inbox.put)

    # -- what the engine says ---------------------------------------------------------------

    def _collect(self, said: deque[tuple[int, EngineEvent]]) -> None:
        self._got_on()
        steps: dict[Channel, list[Step]] = {}
        failed: list[tuple[PendingSequence, MaasError]] = []
        while said:
            key, one = said.popleft()
            job = self._jobs.get(key)
            if job is None:
                continue
            if not isinstance(one, Piece):
                self._unsent.pop(key, None)
                self._finish(job, one, steps, failed)
            elif says_something(one):
                job.wrote(one)
                if job.rows is None:
                    self._unsent[key] = job
        self._send(failed, steps)
        self._start_waiting()
        if not self._jobs:
            self.idle.set()

    def _send(
        self, failed: list[tuple[PendingSequence, MaasError]], steps: dict[Channel, list[Step]]
    ) -> None:
        """`steps`, the first words of who has said nothing yet, and what all others wrote, unless
        that has to wait; then who failed."""
        is_time = self._engine_keeps_pace or not self._unsent or self._pace.is_time()
        for job in [job for job in self._unsent.values() if is_time or not job.is_told]:
            del self._unsent[job.key]
            steps.setdefault(job.owner, []).append((job.number, job.take_unsent(), None))
        for owner, of_owner in steps.items():
            if owner.is_open:
                owner.send_now(pack_pieces(of_owner))
        for job, error in failed:
            _fail(job, error)
        if self._unsent and self._sends_later is None:
            left = max(0.001, self._pace.seconds_left())
            self._sends_later = self._loop.call_later(left, self._send_later)

    def _send_later(self) -> None:
        self._sends_later = None
        self._send([], {})

    def _got_on(self) -> None:
        self._last_step, self._cpu_at_step = time.monotonic(), time.process_time()

    def _finish(
        self,
        job: PendingSequence,
        said: Ending | MaasError,
        steps: dict[Channel, list[Step]],
        failed: list[tuple[PendingSequence, MaasError]],
    ) -> None:
        self._share_time()
        latest = self._share - job.share_before
        known = self._seconds_per_job
        self._seconds_per_job = latest if not known else known + 0.2 * (latest - known)
        self._forget(job)
        if isinstance(said, Ending):
            self._served += 1
            self._prompt_tokens += said.prompt_tokens
            self._completion_tokens += said.completion_tokens
        if job.rows is not None:
            self._finish_row(job, said, latest)
        elif isinstance(said, Ending):
            said = replace(said, compute_us=int(latest * 1e6))
            steps.setdefault(job.owner, []).append((job.number, job.take_unsent(), said))
        else:
            if says_something(job.unsent):
                steps.setdefault(job.owner, []).append((job.number, job.take_unsent(), None))
            failed.append((job, said))

    def _finish_row(self, job: PendingSequence, said: Ending | MaasError, share: float) -> None:
        """The last row of a request sends what becomes of it, so that what all of them took is
        told also of one that fails or is cancelled."""
        rows = job.rows
        if rows is None:
            return
        rows.seconds += share
        if isinstance(said, Ending):
            rows.prompt_tokens += said.prompt_tokens
            rows.completion_tokens += said.completion_tokens
        elif rows.error is None:
            rows.error = said
            self.cancel(job.owner, job.number)  # this one still counts, so none of them is the last
        rows.unfinished -= 1
        if rows.unfinished or not job.owner.is_open:
            return
        if rows.error is not None:
            job.owner.send(_account(job.number, rows, is_last=False))
            _fail(job, rows.error)
        elif rows.is_cancelled:
            job.owner.send(_account(job.number, rows, is_last=True))
        else:
            job.owner.send(pack_answers(rows.answers(job.number)))

    def _share_time(self) -> None:
        """Those that run share the engine alike; called before there are more or fewer."""
        now = time.monotonic()
        self._share += (now - self._shared_at) / max(1, len(self._running))
        self._shared_at = now

    def _forget(self, job: PendingSequence) -> None:
        self._share_time()
        self._jobs.pop(job.key, None)
        self._running.discard(job.key)


def _parcel(job: PendingSequence) -> RequestGroup:
    """As the queue knows it: one row of no size."""
    return RequestGroup(
        ids=array("Q", [job.key]),
        rows=array("I", [1]),
        deadlines=array("d", [job.deadline]),
        tenant=job.tenant,
        priority=job.priority,
        shapes=(),
        columns=[],
        owner=job.owner,
        arrived=time.monotonic(),
        total_rows=1,
    )


def _account(number: int, rows: TextRows, *, is_last: bool) -> list[Buffer]:
    """What all rows of a request took that has no answer."""
    return pack_progress(
        number, rows.compute_us, is_last, rows.prompt_tokens, rows.completion_tokens
    )


def _fail(job: PendingSequence, error: MaasError) -> None:
    job.owner.send(pack_failure(Failure(job.number, error)))


class _Connection(ReplicaConnection):
    def __init__(self, server: GeneratorServer) -> None:
        super().__init__(server)
        self._server = server

    def frame_received(self, kind: int, body: memoryview) -> None:
        if kind == FrameKind.GENERATE:
            asked = unpack_generate(body)
            job = PendingSequence(
                self, asked.id, asked.generation, asked.deadline, asked.tenant, asked.priority
            )
            self._server.accept([job])
        elif kind == FrameKind.INFER:
            self._accept_rows(unpack_infer(body))
        else:
            super().frame_received(kind, body)

    def _accept_rows(self, message: Infer) -> None:
        try:
            jobs = self._server.prompts.jobs(self, message)
        except InvalidInput as error:
            for number in message.ids:
                self.fail(number, error)
            return
        for number in message.ids:
            self._server.accept([job for job in jobs if job.number == number])
