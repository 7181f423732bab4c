"""A client's TCP connection: bytes become requests, and their answers are written in order.

docs/decisions/0001-http-server.md explains why this is not a framework's server. The limits are the
reason: on a request's head (`reader.py`), on its body, and on the time that it takes
(`read_timeouts.py`). A request is refused at the end of its head if possible.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Protocol, cast

from maas.domain.errors import BadRequest, BodyTooLarge, MaasError, RequestTimeout, Unavailable
from maas.gateway.http.answer_order import AnswerOrder
from maas.gateway.http.body_memory import BodyBuffer, BodyMemory
from maas.gateway.http.busy_poll import BusyPoll
from maas.gateway.http.read_control import PauseReason, ReadControl
from maas.gateway.http.read_timeouts import ConnectionActivity, ReadTimeouts
from maas.gateway.http.reader import RequestReader
from maas.gateway.http.request import BodyStream, Request, RequestHead, ServerContext
from maas.gateway.http.write_control import WriteControl

MAX_PIPELINED = 8
DISCARDED_BYTES = 64 << 10
"""A refused body up to this size is read and dropped, which keeps the connection open."""
_END_OF_HEAD = b"\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_NOT_REPEATABLE = {b"transfer-encoding", b"expect", b"upgrade"}
"""A head with one of these headers always goes through the parser."""


class ServerInterface(ServerContext, Protocol):
    """The server, as its connections use it."""

    busy_poll: BusyPoll
    body_memory: BodyMemory
    read_timeouts: ReadTimeouts

    def opened(self, connection: Connection) -> None: ...
    def closed(self, connection: Connection) -> None: ...
    def begin(self, head: RequestHead) -> int:
        """Returns the largest body allowed after `head`. Raises MaasError to refuse the request."""

    @property
    def heads(self) -> dict[bytes, RequestHead]:
        """Accepted heads by their bytes."""

    def remember_head(self, raw: bytes, head: RequestHead) -> None: ...

    def handle(self, request: Request) -> None:
        """Answer a request, now or later. Its body is complete or a stream."""


class Connection(asyncio.Protocol):
    """A client's connection, which reads requests and writes their answers."""

    _reading: ReadControl

    def __init__(self, server: ServerInterface) -> None:
        self.server = server
        self._transport: asyncio.Transport | None = None
        self._reader = RequestReader(self)
        self._order = AnswerOrder(server.loop)
        self._activity = ConnectionActivity(server.read_timeouts)
        self._incoming: Request | None = None
        """The request whose body is being read."""
        self._body_limit = 0
        """Largest allowed body of that request, in bytes."""
        self._body = BodyBuffer(server.body_memory)
        """That body, unless it is a stream."""
        self._drops_body = False
        """Whether the rest of that body is read and dropped."""
        self._owes_continue = False
        """Whether the client waits for `100 Continue`."""
        self._is_closing = False
        """Whether the last answer is decided, after which received bytes are dropped."""
        self._completed = 0
        """Number of requests that were read completely."""
        self._repeatable: RequestHead | None = None
        """The head of the last request, if equal heads may skip the parser."""
        self._writing = WriteControl(server.loop)

    # -- asyncio.Protocol -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._reading = ReadControl(self._transport, self._activity)
        self.server.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        error = Unavailable("the client disconnected")
        self._writing.fail(error)
        incoming, self._incoming = self._incoming, None
        self._body.release()
        if incoming is not None and incoming.body_stream is not None:
            incoming.body_stream.end(error)
        self._order.abandon()
        self.server.closed(self)

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            if self._activity.linger_over(len(data)) and self._transport is not None:
                self._transport.close()
            return
        raw = end = body = b""
        if self._incoming is None and not self._reader.in_head:
            requests = self._order.requests
            if requests and not requests[-1].keep_alive:
                return
            raw, end, body = data.partition(_END_OF_HEAD)
            if end:
                head = self.server.heads.get(raw)
                if head is not None and head.body_length == len(body):
                    # A complete request with a head that was accepted before: skip the parser.
                    self._activity.since = now = monotonic()
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
        """A client that does not read its answers may not send more requests."""
        self._writing.pause()
        if not self._is_closing:
            self._reading.pause(PauseReason.WRITE)

    def resume_writing(self) -> None:
        self._writing.resume()
        self._reading.resume(PauseReason.WRITE)

    # -- requests, called by the reader -----------------------------------------------------

    def head_began(self) -> None:
        self._repeatable = None
        self._activity.since = now = monotonic()
        self.server.busy_poll.request_began(now)

    def head_read(self, head: RequestHead) -> None:
        if self._is_closing or not self._order.accepts_more:
            raise BadRequest("a request follows one that closes the connection")
        self._activity.body_bytes = 0
        request = self._incoming = Request(self, head, self._activity.since)
        requests = self._order.requests
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
        self._send_continue()
        if head.streams_body:
            request.body_stream = BodyStream(self)
            self.server.handle(request)

    def body_read(self, piece: bytes) -> None:
        request = self._incoming
        self._activity.body_bytes += len(piece)
        if self._drops_body or request is None:
            return
        self._owes_continue = False
        if self._activity.body_bytes > self._body_limit:
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
            try:
                self._body.append(request, piece)
            except MaasError as error:
                self.drop_body()
                request.fail(error)

    def request_read(self) -> None:
        request, self._incoming = self._incoming, None
        self._body.release()
        self._activity.since = monotonic()
        self._completed += 1
        self._owes_continue = False
        if self._drops_body:
            self._drops_body = False
        elif request is not None:
            if request.body_stream is not None:
                request.body_stream.end()
            else:
                if request.keep_alive and not request.headers.keys() & _NOT_REPEATABLE:
                    self._repeatable = request.head
                self.server.handle(request)

    def _send_continue(self) -> None:
        """Send `100 Continue` if the client waits for it and all earlier answers are written."""
        requests = self._order.requests
        if self._owes_continue and self._transport and requests[0] is self._incoming:
            self._owes_continue = False
            self._transport.write(_CONTINUE)

    def drop_body(self) -> None:
        """Read and drop the rest of the body. If it is long, the connection closes afterwards."""
        request = self._incoming
        if request is None or self._drops_body:
            return
        self._drops_body = True
        self._body.release()
        if request.body_stream is None:
            request.body = b""
        head = request.head
        left = head.body_length - self._activity.body_bytes
        # After `Expect`, a client that receives an error may send the body or the next request.
        # They cannot be told apart.
        if head.is_chunked or left > DISCARDED_BYTES or b"expect" in head.headers:
            request.keep_alive = False
        self._reading.resume(PauseReason.BODY)

    # -- answers ----------------------------------------------------------------------------

    def answered(self, request: Request) -> None:
        """Write the answer of `request` when it is its turn, and all later ones that are ready."""
        order = self._order
        requests = order.requests
        transport = self._transport
        if (
            len(requests) == 1
            and requests[0] is request
            and request.keep_alive
            and transport is not None
            and not order.streams
            and not self._reading.is_paused
        ):
            # The only request of the connection: the same as `_write_answers`, but faster.
            requests.popleft()
            transport.write(request.answer or b"")
            self._activity.answered = now = monotonic()
            self.server.busy_poll.answered(now)
            return
        order.forget_stream(request)
        self._write_answers()

    def _write_answers(self) -> None:
        transport = self._transport
        if transport is None:
            return
        order = self._order
        while (request := order.take()) is not None:
            transport.write(request.answer or b"")
            self._activity.answered = monotonic()
            if not request.keep_alive:
                self._close_after_answer()
                return
        order.wake()
        if self._owes_continue:
            self._send_continue()
        if len(order.requests) < MAX_PIPELINED:
            self._reading.resume(PauseReason.PIPELINE)

    async def wait_for_turn(self, request: Request) -> None:
        """Wait until every earlier request of this connection is answered."""
        await self._order.wait(request)

    def write_streamed(self, request: Request, data: bytes) -> asyncio.Future[None] | None:
        """Write a part of an answer. If a future is returned, write no more until it is done.

        Raises Unavailable if the client disconnected.
        """
        if self._transport is None or self._transport.is_closing():
            raise Unavailable("the client disconnected")
        self._transport.write(data)
        return self._writing.writable

    def stream_ended(self, request: Request) -> None:
        self.answered(request)

    def abort(self) -> None:
        """Cut the connection. The client sees that a streamed answer is incomplete."""
        if self._transport is not None:
            self._transport.abort()

    def _refuse(self, error: MaasError) -> None:
        """Answer a malformed or too slow request with `error`, after all earlier answers, and
        close the connection."""
        if self._is_closing:
            return
        self._is_closing = True
        requests = self._order.requests
        request = self._incoming
        if request is not None and request.is_answered:
            # The error is in the rest of a body that is dropped.
            request.keep_alive = False
            if request not in requests:
                self._close_after_answer()
            return
        if request is None:
            if not self._order.accepts_more:
                return
            request = Request(self, RequestHead("GET", b"/", {}), self._activity.since)
            requests.append(request)
        request.keep_alive = False
        if request.body_stream is not None:
            request.body_stream.end(error)
        request.fail(error)

    def _close_after_answer(self) -> None:
        """Close the connection after its last answer.

        While the client still sends, the connection is read for a while: the kernel answers unread
        bytes with a reset, and the client would lose the answer.
        """
        transport = self._transport
        if transport is None:
            return
        still_sends = self._is_closing or self._incoming is not None
        self._is_closing = True
        self._order.abandon()
        if not still_sends:
            transport.close()
            return
        self._activity.linger()
        self._reading.resume(*PauseReason)
        if transport.can_write_eof():
            transport.write_eof()

    # -- timeouts and pauses ----------------------------------------------------------------

    def pause_body(self) -> None:
        if self._transport is not None:
            self._reading.pause(PauseReason.BODY)

    def resume_body(self) -> None:
        if self._transport is not None:
            self._reading.resume(PauseReason.BODY)

    @property
    def is_idle(self) -> bool:
        return not (
            self._order.requests
            or self._reader.in_head
            or self._incoming is not None
            or self._activity.is_lingering
        )

    @property
    def idle_since(self) -> float:
        return self._activity.idle_since

    def check_timeouts(self, now: float) -> None:
        """Close the connection if a timeout has passed; called about once a second."""
        transport, activity = self._transport, self._activity
        if transport is None:
            return
        if activity.is_stalled(now, transport.get_write_buffer_size()):
            transport.abort()
        elif activity.is_lingering:
            if activity.has_lingered(now):
                transport.close()
        elif self._is_closing or self._reading.is_paused:
            pass  # the client is not waited for
        elif self._reader.in_head:
            if activity.head_is_late(now):
                self._refuse(RequestTimeout("the request's head took too long"))
        elif self._incoming is not None:
            if activity.body_is_late(now):
                self._refuse(RequestTimeout("the request's body arrives too slowly"))
        elif not self._order.requests and activity.is_idle_too_long(now):
            transport.close()

    def close_if_idle(self) -> None:
        if self.is_idle and self._transport is not None:
            self._transport.close()
