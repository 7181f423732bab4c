"""One client's TCP connection: what is read becomes requests, and their answers go back.

Why not a framework's server: see docs/decisions/0001-front-door.md. What is ours is the part that
decides when to say no: every request has limits on its head (`reader`), its body and its pace
(`pace`), is refused at the end of its head if it will be refused at all, and is answered in the
order in which it came (`turns`).
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Protocol, cast

from maas.domain.errors import BadRequest, BodyTooLarge, MaasError, RequestTimeout, Unavailable
from maas.gateway.http.answer_order import AnswerOrder
from maas.gateway.http.body_memory import BodyMemory
from maas.gateway.http.busy_poll import BusyPoll
from maas.gateway.http.read_timeouts import PauseReason, ReadControl, ReadTimeouts
from maas.gateway.http.reader import RequestReader
from maas.gateway.http.request import BodyStream, Request, RequestHead, ServerContext

MAX_PIPELINED = 8
DISCARDED_BYTES = 64 << 10
"""A refused request's body up to this size is read and dropped, to keep the connection."""
_END_OF_HEAD = b"\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_NOT_REPEATABLE = {b"transfer-encoding", b"expect", b"upgrade"}


class ServerInterface(ServerContext, Protocol):
    """What a connection needs of its server."""

    busy_poll: BusyPoll
    body_memory: BodyMemory

    def opened(self, connection: Connection) -> None: ...
    def closed(self, connection: Connection) -> None: ...
    def begin(self, head: RequestHead) -> int:
        """The head is here: match, authenticate, or raise; returns the largest body allowed."""

    @property
    def heads(self) -> dict[bytes, RequestHead]:
        """What was decided for heads, by their bytes, while it holds."""

    def remember_head(self, raw: bytes, head: RequestHead) -> None: ...

    def handle(self, request: Request) -> None:
        """The request is whole (or its body streams): answer it, now or later."""


class Connection(asyncio.Protocol):
    """One client's connection."""

    _reading: ReadControl

    def __init__(self, server: ServerInterface) -> None:
        self.server = server
        self._transport: asyncio.Transport | None = None
        self._reader = RequestReader(self)
        self._turns = AnswerOrder(server.loop)
        self._pace = ReadTimeouts()
        self._arriving: Request | None = None
        """Whose body is not here yet."""
        self._body_limit = self._held = 0
        """The most bytes of that body, and how many of them are here, unless they stream on."""
        self._dropping = False
        """Nobody wants the rest of that body."""
        self._owes_continue = False
        self._deaf = False
        """The last answer is decided: what still comes is not looked at."""
        self._completed = 0
        """Requests whose body ended, as a count."""
        self._repeatable: RequestHead | None = None
        """The last completed request's head, if its like may skip the parser."""
        self._writable: asyncio.Future[None] | None = None

    # -- asyncio.Protocol -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._reading = ReadControl(self._transport, self._pace)
        self.server.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        gone = Unavailable("the client went away")
        if self._writable is not None and not self._writable.done():
            self._writable.set_exception(gone)
            self._writable.exception()
        arriving, self._arriving = self._arriving, None
        self._let_go()
        if arriving is not None and arriving.body_stream is not None:
            arriving.body_stream.end(gone)
        self._turns.abandon()
        self.server.closed(self)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            if self._pace.linger_over(len(data)) and self._transport is not None:
                self._transport.close()
            return
        raw = end = body = b""
        if self._arriving is None and not self._reader.in_head:
            requests = self._turns.requests
            if requests and not requests[-1].keep_alive:
                return
            raw, end, body = data.partition(_END_OF_HEAD)
            if end:
                head = self.server.heads.get(raw)
                if head is not None and head.body_length == len(body):
                    # The whole request, whose head was seen before: nobody need parse it again.
                    self._pace.since = now = monotonic()
                    self.server.busy_poll.request_began(now)
                    request = Request(self, head, now, body)
                    requests.append(request)
                    if len(requests) >= MAX_PIPELINED:
                        self._reading.pause(PauseReason.PIPELINE)
                    self.server.handle(request)
                    return
        completed = self._completed
        try:
            self._reader.feed(data)
        except MaasError as error:
            self._refuse(error)
            return
        head = self._repeatable
        if end and head is not None and self._completed == completed + 1:
            if head.body_length == len(body):
                self.server.remember_head(raw, head)
            self._repeatable = None

    def pause_writing(self) -> None:
        """Who does not take its answers may not ask for more of them."""
        self._writable = self.server.loop.create_future()
        if not self._deaf:
            self._reading.pause(PauseReason.WRITE)

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)
        self._reading.resume(PauseReason.WRITE)

    # -- requests, as the reader finds them -------------------------------------------------

    def head_began(self) -> None:
        self._repeatable = None
        self._pace.since = now = monotonic()
        self.server.busy_poll.request_began(now)

    def head_read(self, head: RequestHead) -> None:
        if self._deaf or not self._turns.accepts_more:
            raise BadRequest("a request came after the last one")
        self._pace.body_bytes = 0
        request = self._arriving = Request(self, head, self._pace.since)
        requests = self._turns.requests
        requests.append(request)
        if len(requests) >= MAX_PIPELINED:
            self._reading.pause(PauseReason.PIPELINE)
        try:
            self._body_limit = self.server.begin(head)
            if head.body_length > self._body_limit:
                raise BodyTooLarge(
                    f"the body may have {self._body_limit} bytes, not {head.body_length}"
                )
        except MaasError as error:
            self.drop_body()
            request.fail(error)
            return
        expected = head.headers.get(b"expect", b"").lower()
        self._owes_continue = expected == b"100-continue" and not head.is_http_10
        self._give_continue()
        if head.streams_body:
            request.body_stream = BodyStream(self)
            self.server.handle(request)

    def body_read(self, piece: bytes) -> None:
        request = self._arriving
        self._pace.body_bytes += len(piece)
        if self._dropping or request is None:
            return
        self._owes_continue = False
        if self._pace.body_bytes > self._body_limit:
            error = BodyTooLarge(f"the body may have {self._body_limit} bytes")
            self.drop_body()
            request.keep_alive = False
            if request.body_stream is not None:
                request.body_stream.end(error)
            else:
                request.fail(error)
        elif request.body_stream is not None:
            request.body_stream.put(piece)
        else:
            self._keep(request, piece)

    def _keep(self, request: Request, piece: bytes) -> None:
        try:
            self.server.body_memory.take(len(piece))
        except MaasError as error:
            self.drop_body()
            request.fail(error)
            return
        self._held += len(piece)
        if not request.body:
            request.body = piece
        else:
            if isinstance(request.body, bytes):
                request.body = bytearray(request.body)
            request.body += piece

    def _let_go(self) -> None:
        self.server.body_memory.release(self._held)
        self._held = 0

    def request_read(self) -> None:
        request, self._arriving = self._arriving, None
        self._let_go()
        self._pace.since = monotonic()
        self._completed += 1
        self._owes_continue = False
        if self._dropping:
            self._dropping = False
        elif request is not None:
            if request.body_stream is not None:
                request.body_stream.end()
            else:
                if request.keep_alive and not request.headers.keys() & _NOT_REPEATABLE:
                    self._repeatable = request.head
                self.server.handle(request)

    def _give_continue(self) -> None:
        """A client may hear this only after the answers to its earlier requests."""
        requests = self._turns.requests
        if self._owes_continue and self._transport and requests[0] is self._arriving:
            self._owes_continue = False
            self._transport.write(_CONTINUE)

    def drop_body(self) -> None:
        """Nobody wants what is still to come of the body: it is read and dropped, and if that is
        much, the answer is the connection's last."""
        request = self._arriving
        if request is None or self._dropping:
            return
        self._dropping = True
        self._let_go()
        if request.body_stream is None:
            request.body = b""
        head = request.head
        left = head.body_length - self._pace.body_bytes
        # Who asked first and hears an answer may send the body or the next request: who knows.
        if head.is_chunked or left > DISCARDED_BYTES or b"expect" in head.headers:
            request.keep_alive = False
        self._reading.resume(PauseReason.BODY)

    # -- answers ----------------------------------------------------------------------------

    def answered(self, request: Request) -> None:
        """`request` has its answer; write it, and those after it that waited for their turn."""
        turns = self._turns
        requests = turns.requests
        transport = self._transport
        if (
            len(requests) == 1
            and requests[0] is request
            and request.keep_alive
            and transport is not None
            and not turns.streams
            and not self._reading.is_paused
        ):
            # Nobody before it, nobody after it: `_write_answers` would do the same.
            requests.popleft()
            transport.write(request.answer or b"")
            self._pace.answered = now = monotonic()
            self.server.busy_poll.answered(now)
            return
        turns.forget_stream(request)
        self._write_answers()

    def _write_answers(self) -> None:
        transport = self._transport
        if transport is None:
            return
        turns = self._turns
        while (request := turns.take()) is not None:
            transport.write(request.answer or b"")
            self._pace.answered = monotonic()
            if not request.keep_alive:
                self._end()
                return
        turns.wake()
        if self._owes_continue:
            self._give_continue()
        if len(turns.requests) < MAX_PIPELINED:
            self._reading.resume(PauseReason.PIPELINE)

    async def turn_of(self, request: Request) -> None:
        """Wait until every earlier request of this connection is answered."""
        await self._turns.wait(request)

    def write_streamed(self, request: Request, data: bytes) -> asyncio.Future[None] | None:
        """A future: write no more until it is done. Raises Unavailable if the client is gone."""
        if self._transport is None or self._transport.is_closing():
            raise Unavailable("the client went away")
        self._transport.write(data)
        return self._writable

    def stream_ended(self, request: Request) -> None:
        self.answered(request)

    def abort(self) -> None:
        """Cut the connection: the only honest end of an answer that cannot be completed."""
        if self._transport is not None:
            self._transport.abort()

    def _refuse(self, error: MaasError) -> None:
        """The bytes make no sense or too much of it: say so after what is owed, and close."""
        if self._deaf:
            return
        self._deaf = True
        requests = self._turns.requests
        request = self._arriving
        if request is not None and request.is_answered:
            # Only the rest of its body was being read, to be dropped.
            request.keep_alive = False
            if request not in requests:
                self._end()
            return
        if request is None:
            if not self._turns.accepts_more:
                return
            request = Request(self, RequestHead("GET", b"/", {}), self._pace.since)
            requests.append(request)
        request.keep_alive = False
        if request.body_stream is not None:
            request.body_stream.end(error)
        request.fail(error)

    def _end(self) -> None:
        """The last answer is written. Closing while the client still sends would take the answer
        from it (the kernel answers unread bytes with a reset), so then we read on for a while."""
        transport = self._transport
        if transport is None:
            return
        still_sends = self._deaf or self._arriving is not None
        self._deaf = True
        self._turns.abandon()
        if not still_sends:
            transport.close()
            return
        self._pace.linger()
        self._reading.resume(*PauseReason)
        if transport.can_write_eof():
            transport.write_eof()

    # -- pace -------------------------------------------------------------------------------

    def pause_body(self) -> None:
        if self._transport is not None:
            self._reading.pause(PauseReason.BODY)

    def resume_body(self) -> None:
        if self._transport is not None:
            self._reading.resume(PauseReason.BODY)

    @property
    def is_idle(self) -> bool:
        return not (
            self._turns.requests
            or self._reader.in_head
            or self._arriving is not None
            or self._pace.is_lingering
        )

    @property
    def idle_since(self) -> float:
        return self._pace.idle_since

    def check_pace(self, now: float) -> None:
        """Called about once a second: close who is idle, and who is too slow on purpose."""
        transport, pace = self._transport, self._pace
        if transport is None:
            return
        if pace.is_stalled(now, transport.get_write_buffer_size()):
            transport.abort()
        elif pace.is_lingering:
            if pace.has_lingered(now):
                transport.close()
        elif self._deaf or self._reading.is_paused:
            pass  # the next step is ours
        elif self._reader.in_head:
            if pace.head_is_late(now):
                self._refuse(RequestTimeout("the request's head took too long"))
        elif self._arriving is not None:
            if pace.body_is_late(now):
                self._refuse(RequestTimeout("the request's body arrives too slowly"))
        elif not self._turns.requests and pace.is_idle_too_long(now):
            transport.close()

    def close_if_idle(self) -> None:
        if self.is_idle and self._transport is not None:
            self._transport.close()
