"""A replica that generates text: queues sequences fairly and sends what its engine generates."""

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
from maas.serving.replica.pending_sequences import PendingSequence, PlainPrompts, TextRows
from maas.serving.replica.queue import FairQueue, RequestGroup
from maas.serving.replica.replica_socket import ReplicaConnection, ReplicaSocket
from maas.serving.replica.step_inbox import StepInbox
from maas.serving.replica.stream_interval import STREAM_MS, StreamInterval
from maas.serving.wire.channel import Channel
from maas.serving.wire.generation_frames import Step, has_content, pack_pieces, unpack_generate
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
"""Share of a core below which an engine is waiting and not computing slowly."""
PREDICT_MAX_TOKENS = 256
"""Default limit for an answer to `/predict`; the variant's option `predict_max_tokens` overrides
it."""


class GeneratorServer(ReplicaSocket):
    """The queue, the engine and the connections of one replica."""

    def __init__(self, spec: ReplicaSpec, generator: Generator) -> None:
        super().__init__(spec)
        self._generator = generator
        max_tokens = int(spec.options.get("predict_max_tokens", PREDICT_MAX_TOKENS))
        self.prompts = PlainPrompts(generator.has_chat_template, max_tokens)
        self._queue = FairQueue(spec.scaling.queue_limit)
        self._sequences: dict[int, PendingSequence] = {}
        """All sequences without an ending, by key."""
        self._running: set[int] = set()
        """Keys of the sequences in the engine."""
        self._next_up: PendingSequence | None = None
        """The next sequence, if the engine has no room for it yet."""
        self._last_key = 0
        self._inbox = StepInbox(self._loop, generator, lambda: len(self._running), self._collect)
        self._interval = StreamInterval(int(spec.options.get("stream_ms", STREAM_MS)))
        self._engine_defers_output = generator.defer_output(self._interval.is_due)
        self._unsent: dict[int, PendingSequence] = {}
        """Sequences with unsent output, by key."""
        self._send_timer: asyncio.TimerHandle | None = None
        self._last_step = self._cpu_at_step = 0.0
        """Monotonic clock and CPU time at the engine's last step."""
        self._share = self._shared_at = 0.0
        """Engine seconds of a sequence that has been running since the start, sharing the engine
        equally with all others; and when this was last updated."""
        self._seconds_per_sequence = 0.0
        """Moving average of a sequence's share of the engine's time."""
        self._served = self._prompt_tokens = self._completion_tokens = 0

    # -- lifecycle --------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        return bool(self._sequences)

    def connection(self) -> Channel:
        return _Connection(self)

    def abandoned(self, connection: Channel) -> None:
        for sequence in list(self._sequences.values()):
            if sequence.owner is connection:
                self._end_early(sequence)

    async def drain(self) -> None:
        self._interval.disable()  # output that is unsent when draining times out would be lost
        self._send([], {})
        await super().drain()
        self._inbox.close()
        # An engine with unfinished sequences has a thread that would keep the process alive.
        await asyncio.to_thread(self._generator.close)

    def stats(self) -> dict[str, Any]:
        return super().stats() | {
            "served": self._served,
            "queued": len(self._sequences) - len(self._running),
            "running": len(self._running),
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "busy_s": self._busy_s() if self._running else 0.0,
        }

    def _busy_s(self) -> float:
        """Seconds since the engine's last step.

        If the engine computes but gets little CPU time, as on a busy machine, that CPU time counts
        instead.
        """
        elapsed = time.monotonic() - self._last_step
        computed = (time.process_time() - self._cpu_at_step) / self._spec.scaling.threads
        return elapsed if computed < STUCK_SHARE * elapsed else min(elapsed, computed)

    # -- requests ---------------------------------------------------------------------------

    def accept(self, sequences: list[PendingSequence]) -> None:
        """Queue all sequences of a request, or fail the request if there is no room for them."""
        if len(sequences) > self._queue.limit:
            limit = f"{self._spec.deployment} takes at most {self._queue.limit} texts at a time"
            _fail(sequences[0], InvalidInput(f"{limit}; got {len(sequences)}"))
            return
        if sequences[0].priority is not Priority.PROOF and self._queue.room < len(sequences):
            waiting = f"{self._queue.waiting} sequences waiting of at most {self._queue.limit}"
            wait = max(1.0, self._seconds_per_sequence * self._queue.waiting)
            error = Overloaded(f"{self._spec.deployment} has {waiting}", retry_after=wait)
            _fail(sequences[0], error)
            return
        for sequence in sequences:
            sequence.key = self._last_key = self._last_key + 1
            self._sequences[sequence.key] = sequence
            if sequence.priority is Priority.PROOF:
                self._begin(sequence)
            else:
                self._queue.put(_group_of(sequence))
        self._loop.call_soon(self._start_waiting)

    def cancel(self, connection: Channel, number: int) -> None:
        for sequence in list(self._sequences.values()):
            if sequence.owner is connection and sequence.number == number:
                if sequence.rows is not None:
                    sequence.rows.is_canceled = True
                self._end_early(sequence)

    def _end_early(self, sequence: PendingSequence) -> None:
        if sequence.key in self._running:
            self._generator.cancel(sequence.key)  # the engine sends an ending with its usage
            return
        self._queue.cancel(sequence.owner, sequence.key)
        if self._next_up is sequence:
            self._next_up = None
        self._forget(sequence)
        if sequence.rows is not None:
            self._finish_row(sequence, Ending("cancelled", 0, 0), 0.0)
        elif sequence.owner.is_open:
            step: Step = (sequence.number, Piece(), Ending("cancelled", 0, 0))
            sequence.owner.send(pack_pieces([step]))

    def _start_waiting(self) -> None:
        """Start sequences in the order of the queue while the engine has room."""
        while len(self._running) < self._generator.slots:
            sequence = self._next_up or self._next()
            self._next_up = None
            if sequence is None:
                return
            if sequence.deadline <= time.monotonic():
                self._forget(sequence)
                error = DeadlineExceeded("the request's deadline passed in the queue")
                if sequence.rows is not None:
                    self._finish_row(sequence, error, 0.0)
                else:
                    _fail(sequence, error)
            elif self._generator.has_room(sequence.generation) or not self._running:
                self._begin(sequence)
            else:
                self._next_up = sequence
                return

    def _next(self) -> PendingSequence | None:
        for group in self._queue.take(1):
            return self._sequences[group.ids[0]]
        return None

    def _begin(self, sequence: PendingSequence) -> None:
        sequence.started = time.monotonic()
        if sequence.rows is not None and not sequence.rows.started:
            sequence.rows.started = sequence.started
        if not self._running:
            self._note_progress()
        self._share_time()
        sequence.share_before = self._share
        self._running.add(sequence.key)
        self._generator.start(sequence.key, sequence.generation, self._inbox.put)

    # -- events of the engine ---------------------------------------------------------------

    def _collect(self, events: deque[tuple[int, EngineEvent]]) -> None:
        """Handle the events of a step or several, and send what is due."""
        self._note_progress()
        steps: dict[Channel, list[Step]] = {}
        failed: list[tuple[PendingSequence, MaasError]] = []
        while events:
            key, event = events.popleft()
            sequence = self._sequences.get(key)
            if sequence is None:
                continue
            if not isinstance(event, Piece):
                self._unsent.pop(key, None)
                self._finish(sequence, event, steps, failed)
            elif has_content(event):
                sequence.add(event)
                if sequence.rows is None:
                    self._unsent[key] = sequence
        self._send(failed, steps)
        self._start_waiting()
        if not self._sequences:
            self.idle.set()

    def _send(
        self, failed: list[tuple[PendingSequence, MaasError]], steps: dict[Channel, list[Step]]
    ) -> None:
        """Send `steps`, the first output of each sequence, and other output if it is due; then the
        errors of `failed`."""
        is_due = self._engine_defers_output or not self._unsent or self._interval.is_due()
        for sequence in list(self._unsent.values()):
            if is_due or not sequence.has_sent_text:
                del self._unsent[sequence.key]
                step: Step = (sequence.number, sequence.take_unsent(), None)
                steps.setdefault(sequence.owner, []).append(step)
        for owner, owner_steps in steps.items():
            if owner.is_open:
                owner.send_now(pack_pieces(owner_steps))
        for sequence, error in failed:
            _fail(sequence, error)
        if self._unsent and self._send_timer is None:
            delay = max(0.001, self._interval.seconds_left())
            self._send_timer = self._loop.call_later(delay, self._send_unsent)

    def _send_unsent(self) -> None:
        self._send_timer = None
        self._send([], {})

    def _note_progress(self) -> None:
        self._last_step, self._cpu_at_step = time.monotonic(), time.process_time()

    def _finish(
        self,
        sequence: PendingSequence,
        outcome: Ending | MaasError,
        steps: dict[Channel, list[Step]],
        failed: list[tuple[PendingSequence, MaasError]],
    ) -> None:
        """Forget `sequence`, and add its last step and error to `steps` and `failed`."""
        self._share_time()
        share = self._share - sequence.share_before
        average = self._seconds_per_sequence
        self._seconds_per_sequence = share if not average else average + 0.2 * (share - average)
        self._forget(sequence)
        if isinstance(outcome, Ending):
            self._served += 1
            self._prompt_tokens += outcome.prompt_tokens
            self._completion_tokens += outcome.completion_tokens
        if sequence.rows is not None:
            self._finish_row(sequence, outcome, share)
            return
        ending = None
        if isinstance(outcome, Ending):
            ending = replace(outcome, compute_us=int(share * 1e6))
        else:
            failed.append((sequence, outcome))
        if ending is not None or has_content(sequence.unsent):
            step: Step = (sequence.number, sequence.take_unsent(), ending)
            steps.setdefault(sequence.owner, []).append(step)

    def _finish_row(
        self, sequence: PendingSequence, outcome: Ending | MaasError, share: float
    ) -> None:
        """End one row of a request. After the last row, send the answer, or the usage of all rows
        if the request failed or was canceled."""
        rows = sequence.rows
        if rows is None:
            return
        rows.seconds += share
        if isinstance(outcome, Ending):
            rows.prompt_tokens += outcome.prompt_tokens
            rows.completion_tokens += outcome.completion_tokens
        elif rows.error is None:
            rows.error = outcome
            # This row still counts as unfinished, so that no other row is the last one.
            self.cancel(sequence.owner, sequence.number)
        rows.unfinished -= 1
        if rows.unfinished or not sequence.owner.is_open:
            return
        if rows.error is not None:
            sequence.owner.send(_usage_frame(sequence.number, rows, is_last=False))
            _fail(sequence, rows.error)
        elif rows.is_canceled:
            sequence.owner.send(_usage_frame(sequence.number, rows, is_last=True))
        else:
            sequence.owner.send(pack_answers(rows.answers(sequence.number)))

    def _share_time(self) -> None:
        """Add the time since the last call to `_share`, divided by the number of running sequences;
        called before that number changes."""
        now = time.monotonic()
        self._share += (now - self._shared_at) / max(1, len(self._running))
        self._shared_at = now

    def _forget(self, sequence: PendingSequence) -> None:
        self._share_time()
        self._sequences.pop(sequence.key, None)
        self._running.discard(sequence.key)


def _group_of(sequence: PendingSequence) -> RequestGroup:
    """`sequence` for the queue: a request with one row and no columns."""
    return RequestGroup(
        ids=array("Q", [sequence.key]),
        rows=array("I", [1]),
        deadlines=array("d", [sequence.deadline]),
        tenant=sequence.tenant,
        priority=sequence.priority,
        shapes=(),
        columns=[],
        owner=sequence.owner,
        arrived=time.monotonic(),
        total_rows=1,
    )


def _usage_frame(number: int, rows: TextRows, *, is_last: bool) -> list[Buffer]:
    """A PROGRESS frame with the usage of all rows of a request that has no answer."""
    return pack_progress(
        number, rows.compute_us, is_last, rows.prompt_tokens, rows.completion_tokens
    )


def _fail(sequence: PendingSequence, error: MaasError) -> None:
    sequence.owner.send(pack_failure(Failure(sequence.number, error)))


class _Connection(ReplicaConnection):
    def __init__(self, server: GeneratorServer) -> None:
        super().__init__(server)
        self._server = server

    def frame_received(self, kind: int, body: memoryview) -> None:
        if kind == FrameKind.GENERATE:
            message = unpack_generate(body)
            sequence = PendingSequence(
                owner=self,
                number=message.id,
                generation=message.generation,
                deadline=message.deadline,
                tenant=message.tenant,
                priority=message.priority,
            )
            self._server.accept([sequence])
        elif kind == FrameKind.INFER:
            self._accept_rows(unpack_infer(body))
        else:
            super().frame_received(kind, body)

    def _accept_rows(self, message: Infer) -> None:
        try:
            sequences = self._server.prompts.sequences(self, message)
        except InvalidInput as error:
            for number in message.ids:
                self.fail(number, error)
            return
        for number in message.ids:
            self._server.accept([sequence for sequence in sequences if sequence.number == number])
