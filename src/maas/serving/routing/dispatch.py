"""The caller's end of a replica: calls go out in one frame per tick, answers find their caller."""

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
"""About where a frame ends and the next call starts another: their length has a limit."""
UNSENT_BYTES = 16 << 20
"""How much may wait for a replica that does not read before it gets nothing more."""


class ReplicaLink(Channel):
    """A connection to one replica."""

    def __init__(
        self,
        on_closed: OnClosed | None = None,
        on_usable: OnUsable | None = None,
        owing: set[ReplicaLink] | None = None,
    ) -> None:
        """`on_closed` gets the calls that the replica took and did not answer; without it they
        fail with ReplicaLost. `on_usable` is called whenever `usable` has changed. In `owing` it
        is while its replica owes an answer."""
        super().__init__()
        self._owing = set() if owing is None else owing
        self.pending: dict[int, Call] = {}
        self.usable = False
        """Whether it is open and takes calls."""
        self.going_away = False
        self.rows_in_flight = 0
        self.bytes_in_flight = 0
        self.seconds_per_row = 0.0
        """Moving average of the model's time per row; 0 until known."""
        self.outgoing: list[Call] = []
        self._next_id = 0
        self._in_parts: dict[int, tuple[Call, int]] = {}
        """Calls that a replica works through in parts, and the microseconds that these took; and
        those that were cancelled, of which nobody here knows whether it does. They stay until the
        replica has ended them, so that all of it is counted."""
        self._pings: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._on_closed = on_closed
        self._on_usable = on_usable

    @classmethod
    async def connect(
        cls,
        path: str,
        on_closed: OnClosed | None = None,
        on_usable: OnUsable | None = None,
        owing: set[ReplicaLink] | None = None,
    ) -> ReplicaLink:
        """Raises OSError if nobody answers on `path`."""
        loop = asyncio.get_running_loop()
        transport, link = await loop.create_unix_connection(
            lambda: cls(on_closed, on_usable, owing), path
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
            self._owing.add(self)
            self._loop.call_soon(self._send_outgoing)
        self.outgoing.append(call)

    def cancel(self, call: Call) -> None:
        """Forget `call`; if it still waits in the replica it is never computed."""
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
        """Have the replica end a generation early; its ending is still to come. False if it has
        not left yet: then it never will."""
        if self.pending.get(call.number) is call:
            self.send(pack_cancel([call.number]))
            return True
        self.cancel(call)
        return False

    def leave(self) -> None:
        """Take no more calls; close as soon as the replica owes us nothing."""
        self.going_away = True
        self._judge()
        self._settle()

    async def predict(
        self,
        signature: Signature,
        tensors: Tensors,
        rows: int,
        deadline: float,
        priority: Priority = Priority.LOW,
    ) -> Tensors:
        """Ask for `rows` rows and wait for the answer; raises MaasError, DeadlineExceeded if none
        came a second after `deadline`.

        `tensors` holds every input of `signature`, batch dimension first.
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
        """As `predict`, with these rows' share of the model's run time in microseconds."""
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
        """The replica's own account of itself; TimeoutError if it does not answer."""
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
                self._to_send.extend(call.packed())
                continue
            # Rows of different shapes cannot lie end to end in one column.
            key: object = call.shapes if not call.alone else id(call)
            groups.setdefault(key, []).append(call)
        for group in groups.values():
            # What is on its way bounds what leaves now, and is hardly ever so much.
            for part in [group] if self.bytes_in_flight <= FRAME_BYTES else _frames_of(group):
                self._send_group(part)
        # This is the end of the tick: another turn of the loop would only delay it.
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
            known = self.seconds_per_row
            self.seconds_per_row = latest if not known else known + 0.1 * (latest - known)
        first_row = 0
        pending = self.pending
        for at, (number, rows) in enumerate(zip(answers.ids, answers.rows, strict=True)):
            call = pending.pop(number, None)
            if self._in_parts and number in self._in_parts:
                # Answers in parts travel alone: what is left of this time is the last part's.
                given_up, known = self._in_parts.pop(number)
                answers.compute_us = max(0, answers.compute_us - known)
                # Cancelled while it was computed or its answer was on the way. A batch of several
                # is counted with the others' answers.
                if call is None and rows == answers.batch_rows:
                    given_up.computed(
                        answers.compute_us, answers.prompt_tokens, answers.completion_tokens
                    )
            if call is not None:
                self.rows_in_flight -= call.load
                self.bytes_in_flight -= call.size
                try:
                    call.answered(answers, at, first_row)
                except Exception:
                    # It is this call's trouble; the others of the frame get their answers.
                    log.exception("an answer could not be handed over")
                    fail_call(call, MaasError("an internal error; the server's log has it"))
            first_row += rows

    def _progress_received(self, raw: dict[str, Any]) -> None:
        number, compute_us = int(raw["id"]), int(raw["compute_us"])
        call, known = self._in_parts.pop(number, (self.pending.get(number), 0))
        if call is None:
            return
        if not raw["is_last"]:
            self._in_parts[number] = (call, known + compute_us)
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
            log.exception("a piece could not be handed over")
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
        """Note that the replica owes us nothing, if that is so; one that drains waits for us to
        close then."""
        if not self.pending and not self.outgoing:
            self._owing.discard(self)
            if self.going_away:
                self.close()

    def _judge(self) -> None:
        usable = self.is_open and not self.going_away and not self.is_congested
        if usable is not self.usable:
            self.usable = usable
            if self._on_usable is not None:
                self._on_usable(self)

    def opened(self) -> None:
        self._judge()

    def congestion_changed(self) -> None:
        self._judge()

    def closed(self, reason: Exception | None) -> None:
        self._judge()
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
        self._owing.discard(self)
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
    """Runs of FRAME_BYTES at most; a call that is larger goes alone."""
    run: list[Call] = []
    size = 0
    for call in calls:
        if run and size + call.size > FRAME_BYTES:
            yield run
            run, size = [], 0
        run.append(call)
        size += call.size
    yield run
