"""The gateway's link to a replica: sends the calls of a tick in one frame, matches the answers."""

from __future__ import annotations

import asyncio
import logging
import time
from array import array
from collections.abc import Callable, Iterator
from typing import Any

from maas.domain.errors import DeadlineExceeded, MaasError, ReplicaLost
from maas.domain.generation import Ending, Piece
from maas.domain.signature import Signature
from maas.serving.routing.awaited_call import AwaitedCall
from maas.serving.routing.call import Call, fail_call
from maas.serving.wire.channel import Channel
from maas.serving.wire.generation_frames import unpack_pieces
from maas.serving.wire.messages import (
    Answers,
    Column,
    Failure,
    FrameKind,
    Infer,
    Priority,
    ProtocolViolation,
    pack_cancel,
    pack_infer,
    pack_json,
    unpack_answers,
    unpack_failure,
    unpack_json,
)
from maas.serving.wire.tensors import Tensors

log = logging.getLogger(__name__)

FRAME_BYTES = 16 << 20
"""Approximate size at which a frame is sent and another one begins. Frames have a size limit."""
UNSENT_BYTES = 16 << 20
"""Unsent bytes above which a replica that does not read gets no more calls."""


class ReplicaLink(Channel):
    """A connection to one replica and the calls that were sent over it."""

    def __init__(
        self,
        on_closed: OnClosed | None = None,
        on_usable: OnUsable | None = None,
        busy_links: set[ReplicaLink] | None = None,
    ) -> None:
        """`on_closed` receives the calls without an answer when the connection is lost; without it
        they fail with ReplicaLost. `on_usable` is called when `usable` changes. The link is in the
        set `busy_links` while its replica has unanswered calls."""
        super().__init__()
        self._busy_links = set() if busy_links is None else busy_links
        self.pending: dict[int, Call] = {}
        """Sent calls without an answer, by their number."""
        self.usable = False
        """Whether the connection is open and takes calls."""
        self.going_away = False
        self.rows_in_flight = 0
        self.bytes_in_flight = 0
        self.seconds_per_row = 0.0
        """Moving average of the model's time per row; 0 before the first answer."""
        self.outgoing: list[Call] = []
        """Calls that leave at the end of this tick."""
        self._next_id = 0
        self._in_parts: dict[int, tuple[Call, int]] = {}
        """Calls computed in parts, with the microseconds of the finished parts, and canceled calls,
        which may be computed in parts. They stay until the replica has ended them, so that all
        work is metered."""
        self._pings: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._on_closed = on_closed
        self._on_usable = on_usable

    @classmethod
    async def connect(
        cls,
        path: str,
        on_closed: OnClosed | None = None,
        on_usable: OnUsable | None = None,
        busy_links: set[ReplicaLink] | None = None,
    ) -> ReplicaLink:
        """Connect to the socket `path`. Raises OSError if nothing listens there."""
        loop = asyncio.get_running_loop()
        transport, link = await loop.create_unix_connection(
            lambda: cls(on_closed, on_usable, busy_links), path
        )
        transport.set_write_buffer_limits(high=UNSENT_BYTES)
        return link

    # -- calls ------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        return len(self.pending) + len(self.outgoing)

    def submit(self, call: Call) -> None:
        call.attempts += 1
        call.link = self
        call.number = 0
        self.rows_in_flight += call.load
        self.bytes_in_flight += call.size
        if not self.outgoing:
            self._busy_links.add(self)
            self._loop.call_soon(self._send_outgoing)
        self.outgoing.append(call)

    def cancel(self, call: Call) -> None:
        """Forget `call`. If it still waits in the replica, it is never computed."""
        if call.number == 0 and call in self.outgoing:
            self.outgoing.remove(call)
            self._forget(call)
        elif self.pending.get(call.number) is call:
            del self.pending[call.number]
            self._forget(call)
            if not call.is_generation:
                self._in_parts.setdefault(call.number, (call, 0))
            self.send(pack_cancel([call.number]))
        call.link = None
        self._settle()

    def stop(self, call: Call) -> bool:
        """Ask the replica to end a generation early; its ending follows.

        Returns False if the call was not sent yet. It is then discarded and has no ending.
        """
        if self.pending.get(call.number) is call:
            self.send(pack_cancel([call.number]))
            return True
        self.cancel(call)
        return False

    def leave(self) -> None:
        """Take no more calls, and close when every call has an answer."""
        self.going_away = True
        self._update_usable()
        self._settle()

    async def predict(
        self,
        signature: Signature,
        tensors: Tensors,
        rows: int,
        deadline: float,
        priority: Priority = Priority.LOW,
    ) -> Tensors:
        """Predict `rows` rows and wait for the outputs.

        `tensors` holds every input of `signature`, batch dimension first. `deadline` is in seconds
        on the monotonic clock. Raises the replica's MaasError, or DeadlineExceeded if there is no
        answer one second after `deadline`.
        """
        return (await self.predict_timed(signature, tensors, rows, deadline, priority))[0]

    async def predict_timed(
        self,
        signature: Signature,
        tensors: Tensors,
        rows: int,
        deadline: float,
        priority: Priority,
    ) -> tuple[Tensors, int]:
        """Like `predict`; also returns these rows' share of the model's run time, microseconds."""
        call = AwaitedCall(signature, tensors, rows, deadline, priority)
        self.submit(call)
        try:
            async with asyncio.timeout(max(0.0, deadline + 1.0 - time.monotonic())):
                return await call.future, call.compute_us
        except TimeoutError:
            raise DeadlineExceeded() from None
        finally:
            if not call.future.done() or call.future.cancelled():
                self.cancel(call)

    async def ping(self, timeout_s: float) -> dict[str, Any]:
        """The replica's statistics. Raises TimeoutError if there is no answer in `timeout_s`."""
        number = self._next_id = self._next_id + 1
        future: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._pings[number] = future
        self.send(pack_json(FrameKind.PING, {"id": number}))
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        finally:
            self._pings.pop(number, None)

    # -- frames -----------------------------------------------------------------------------

    def _send_outgoing(self) -> None:
        calls, self.outgoing = self.outgoing, []
        if not self.is_open:
            self._lose(calls)
            return
        groups: dict[object, list[Call]] = {}
        for call in calls:
            if call.is_generation:
                call.number = self._next_id = self._next_id + 1
                self.pending[call.number] = call
                self._to_send.extend(call.pack())
                continue
            # Rows of different shapes cannot share a column.
            key: object = call.shapes if not call.travels_alone else id(call)
            groups.setdefault(key, []).append(call)
        for group in groups.values():
            # The bytes in flight are an upper bound for this group, and rarely exceed the limit.
            for part in [group] if self.bytes_in_flight <= FRAME_BYTES else _frames_of(group):
                self._send_group(part)
        # The tick ends here. Another iteration of the loop would only delay the write.
        self._flush()

    def _send_group(self, calls: list[Call]) -> None:
        first = self._next_id + 1
        self._next_id += len(calls)
        ids = array("Q", range(first, self._next_id + 1))
        for number, call in zip(ids, calls, strict=True):
            call.number = number
            self.pending[number] = call
        columns = []
        for place, shape in enumerate(calls[0].shapes):
            parts = [call.columns[place] for call in calls]
            columns.append(Column(shape, parts[0] if len(parts) == 1 else b"".join(parts)))
        message = Infer(
            ids=ids,
            rows=array("I", [c.rows for c in calls]),
            deadlines=array("d", [c.deadline for c in calls]),
            tenants=array("I", [c.tenant for c in calls]),
            priorities=bytes([c.priority for c in calls]),
            columns=columns,
        )
        self._to_send.extend(pack_infer(message))

    def frame_received(self, kind: int, body: memoryview) -> None:
        if kind == FrameKind.ANSWERS:
            self._answers_received(unpack_answers(body))
        elif kind == FrameKind.PIECES:
            for step in unpack_pieces(body):
                self._stepped(*step)
        elif kind == FrameKind.FAILURE:
            self._failure_received(unpack_failure(body))
        elif kind == FrameKind.PROGRESS:
            self._progress_received(unpack_json(body))
        elif kind == FrameKind.PONG:
            raw = unpack_json(body)
            future = self._pings.pop(raw.get("id", 0), None)
            if future is not None and not future.done():
                future.set_result(raw)
        elif kind == FrameKind.GOAWAY:
            self.leave()
        else:
            raise ProtocolViolation(f"unexpected frame of kind {kind}")
        self._settle()

    def _answers_received(self, answers: Answers) -> None:
        if answers.batch_rows:
            latest = answers.compute_us / 1e6 / answers.batch_rows
            average = self.seconds_per_row
            self.seconds_per_row = latest if not average else average + 0.1 * (latest - average)
        first_row = 0
        pending = self.pending
        for at, (number, rows) in enumerate(zip(answers.ids, answers.rows, strict=True)):
            call = pending.pop(number, None)
            if self._in_parts and number in self._in_parts:
                # Answers in parts travel alone, so the remaining time is that of the last part.
                canceled, metered_us = self._in_parts.pop(number)
                answers.compute_us = max(0, answers.compute_us - metered_us)
                # The call was canceled while it was computed or answered. In a batch of several
                # calls, its share is metered with the other answers.
                if call is None and rows == answers.batch_rows:
                    canceled.computed(
                        answers.compute_us, answers.prompt_tokens, answers.completion_tokens
                    )
            if call is not None:
                self.rows_in_flight -= call.load
                self.bytes_in_flight -= call.size
                try:
                    call.answered(answers, at, first_row)
                except Exception:
                    # The other calls of the frame still get their answers.
                    log.exception("an answer could not be delivered")
                    fail_call(call, MaasError("an internal error; the server's log has it"))
            first_row += rows

    def _progress_received(self, raw: dict[str, Any]) -> None:
        number, compute_us = int(raw["id"]), int(raw["compute_us"])
        call, metered_us = self._in_parts.pop(number, (self.pending.get(number), 0))
        if call is None:
            return
        if not raw["is_last"]:
            self._in_parts[number] = (call, metered_us + compute_us)
        tokens = [int(raw.get(name, 0)) for name in ("prompt_tokens", "completion_tokens")]
        call.computed(compute_us, *tokens)

    def _stepped(self, number: int, piece: Piece, ending: Ending | None) -> None:
        call = self.pending.get(number)
        if call is None:
            return
        if ending is not None:
            del self.pending[number]
            self._forget(call)
        try:
            call.stepped(piece, ending)
        except Exception:
            log.exception("a piece could not be delivered")
            self.cancel(call)
            fail_call(call, MaasError("an internal error; the server's log has it"))

    def _failure_received(self, failure: Failure) -> None:
        call = self.pending.pop(failure.id, None)
        self._in_parts.pop(failure.id, None)
        if call is not None:
            self._forget(call)
            fail_call(call, failure.error)

    def _forget(self, call: Call) -> None:
        call.link = None
        self.rows_in_flight -= call.load
        self.bytes_in_flight -= call.size

    def _settle(self) -> None:
        """Once every call has an answer, leave `busy_links`, and close if the replica is draining,
        which waits for that."""
        if not self.pending and not self.outgoing:
            self._busy_links.discard(self)
            if self.going_away:
                self.close()

    def _update_usable(self) -> None:
        usable = self.is_open and not self.going_away and not self.is_congested
        if usable is not self.usable:
            self.usable = usable
            if self._on_usable is not None:
                self._on_usable(self)

    def opened(self) -> None:
        self._update_usable()

    def congestion_changed(self) -> None:
        self._update_usable()

    def closed(self, reason: Exception | None) -> None:
        self._update_usable()
        lost = [*self.pending.values(), *self.outgoing]
        self.pending.clear()
        self._in_parts.clear()
        self.outgoing.clear()
        for future in self._pings.values():
            if not future.done():
                future.set_exception(ReplicaLost())
        self._pings.clear()
        self._lose(lost)

    def _lose(self, calls: list[Call]) -> None:
        self._busy_links.discard(self)
        for call in calls:
            self._forget(call)
        if self._on_closed is not None:
            self._on_closed(self, calls)
        else:
            for call in calls:
                fail_call(call, ReplicaLost())


OnClosed = Callable[[ReplicaLink, list[Call]], None]
OnUsable = Callable[[ReplicaLink], None]


def _frames_of(calls: list[Call]) -> Iterator[list[Call]]:
    """Split `calls` into runs of at most FRAME_BYTES. A larger call is a run of its own."""
    run: list[Call] = []
    size = 0
    for call in calls:
        if run and size + call.size > FRAME_BYTES:
            yield run
            run, size = [], 0
        run.append(call)
        size += call.size
    yield run
