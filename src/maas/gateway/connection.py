"""HTTP/1.1 over one TCP connection: llhttp (through httptools) reads, this file keeps order.

Why not a framework's server: see docs/decisions/0001-front-door.md. What is ours is the part that
decides when to say no: every request has limits on its head, its body and its pace, is refused at
the end of its head if it will be refused at all, and is answered in the order in which it came.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Protocol, cast

import httptools

from maas.domain.errors import (
    BadRequest,
    BodyTooLarge,
    HeadersTooLarge,
    MaasError,
    RequestTimeout,
    Unavailable,
)
from maas.gateway.request import BodyStream, Door, Head, Request

MAX_HEAD_BYTES = 32 << 10
MAX_HEADERS = 100
MAX_TARGET_BYTES = 8 << 10
MAX_PIPELINED = 8
HEAD_SECONDS = 10.0
IDLE_SECONDS = 75.0
BODY_GRACE_SECONDS = 10.0
BODY_BYTES_PER_SECOND = 1024
STALLED_WRITE_SECONDS = 30.0
DISCARDED_BYTES = 64 << 10
"""A refused request's body up to this size is read and dropped, to keep the connection."""
_END_OF_HEAD = b"\r\n\r\n"
_NOT_REPEATABLE = {b"transfer-encoding", b"expect", b"upgrade"}


class Server(Door, Protocol):
    """What a connection needs of its server."""

    def opened(self, connection: Connection) -> None: ...
    def closed(self, connection: Connection) -> None: ...
    def begin(self, head: Head) -> int:
        """The head is here: match, authenticate, or raise; returns the largest body allowed."""

    def known_head(self, raw: bytes) -> Head | None:
        """What was decided for these bytes of a head, if it still holds."""

    def remember_head(self, raw: bytes, head: Head) -> None: ...

    def handle(self, request: Request) -> None:
        """The request is whole (or its body streams): answer it, now or later."""


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.door: Door = server
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._requests: deque[Request] = deque()
        """Read and not yet fully answered, in order."""
        self._arriving: Request | None = None
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._field_bytes = 0
        self._head_bytes = 0
        self._body_bytes = 0
        self._body_limit = 0
        self._in_head = False
        self._in_known_head = False
        """The parser is being told again about a request whose body it has yet to read."""
        self._discarding = False
        self._paused = False
        self._closing = False
        self._completed = 0
        """Requests whose body ended, as a count."""
        self._repeatable: Head | None = None
        """The last completed request's head, if its like may skip the parser."""
        self._since = time.monotonic()
        self._write_stalled_since = 0.0
        self._writable: asyncio.Future[None] | None = None
        self._turns: dict[Request, asyncio.Future[None]] = {}

    # -- asyncio.Protocol -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.server.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        gone = Unavailable("the client went away")
        for future in (*self._turns.values(), self._writable):
            if future is not None and not future.done():
                future.set_exception(gone)
                future.exception()
        arriving, self._arriving = self._arriving, None
        if arriving is not None and arriving.body_stream is not None:
            arriving.body_stream.end(gone)
        for request in self._requests:
            if request.on_disconnect is not None:
                request.on_disconnect()
        self._requests.clear()
        self.server.closed(self)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        between = self._arriving is None and not self._in_head
        if between:
            raw, _, body = data.partition(_END_OF_HEAD)
            head = self.server.known_head(raw)
            if head is not None and head.body_length == len(body):
                self._again(head, body)
                return
        if between or self._in_head:
            self._head_bytes += len(data)
        completed = self._completed
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if not isinstance(cause, MaasError):
                raise
            self._refuse(cause)
        except httptools.HttpParserError as error:
            self._refuse(BadRequest(f"not HTTP/1.1: {error}"))
        else:
            if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(HeadersTooLarge())
            if between and self._completed == completed + 1 and self._repeatable is not None:
                if self._repeatable.body_length == len(body):
                    self.server.remember_head(raw, self._repeatable)
                self._repeatable = None

    def _feed(self, data: bytes) -> None:
        """The parser stops where a head asks for another protocol, as Java's HttpClient does for
        HTTP/2. We speak no other and may ignore that (RFC 9110, 7.8): the body follows, if there
        is one, and the connection stays what it is."""
        while data:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as asked:
                data = data[asked.args[0] :]
                self._parser = httptools.HttpRequestParser(self)
                if self._arriving is not None:
                    self._in_known_head = True
                    chunked = b"transfer-encoding" in self._headers
                    length = b"%d" % self._arriving.head.body_length
                    framing = (
                        b"transfer-encoding: chunked" if chunked else b"content-length: " + length
                    )
                    self._parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")

    def _again(self, head: Head, body: bytes) -> None:
        """A whole request whose head was seen before: the parser need not see it again."""
        self._since = now = time.monotonic()
        request = Request(self, head, now, body)
        self._requests.append(request)
        if len(self._requests) >= MAX_PIPELINED:
            self.pause_body()
        self.server.handle(request)

    def pause_writing(self) -> None:
        self._write_stalled_since = time.monotonic()
        self._writable = self.server.loop.create_future()

    def resume_writing(self) -> None:
        self._write_stalled_since = 0.0
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    # -- httptools --------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._in_known_head:
            return
        self._target = b""
        self._headers = {}
        self._field_bytes = 0
        self._in_head = True
        self._since = time.monotonic()

    def on_url(self, url: bytes) -> None:
        if self._in_known_head:
            return
        self._target += url
        if len(self._target) > MAX_TARGET_BYTES:
            raise HeadersTooLarge(f"the request line is longer than {MAX_TARGET_BYTES} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_known_head:
            return
        name = name.lower()
        self._field_bytes += len(name) + len(value)
        if self._field_bytes > MAX_HEAD_BYTES:
            raise HeadersTooLarge(f"the headers are longer than {MAX_HEAD_BYTES} bytes")
        if name in self._headers:
            if name in (b"host", b"authorization", b"x-api-key", b"content-length"):
                raise BadRequest(f"the header {name.decode()} came twice")
            value = self._headers[name] + b", " + value
        elif len(self._headers) >= MAX_HEADERS:
            raise HeadersTooLarge(f"more than {MAX_HEADERS} headers")
        self._headers[name] = value

    def on_headers_complete(self) -> None:
        if self._in_known_head:
            self._in_known_head = False
            return
        self._in_head = False
        self._head_bytes = 0
        self._body_bytes = 0
        parser = self._parser
        head = Head(parser.get_method().decode(), self._target, self._headers)
        head.keep_alive = parser.should_keep_alive()
        head.body_length = self._announced_length()
        request = Request(self, head, self._since)
        self._requests.append(request)
        self._arriving = request
        if len(self._requests) >= MAX_PIPELINED:
            self.pause_body()
        try:
            self._body_limit = self.server.begin(head)
            if head.body_length > self._body_limit:
                raise BodyTooLarge(
                    f"the body may have {self._body_limit} bytes, not {head.body_length}"
                )
        except MaasError as error:
            self._discarding = True
            chunked = b"transfer-encoding" in self._headers
            if chunked or head.body_length > DISCARDED_BYTES:
                request.keep_alive = False
            request.fail(error)
            return
        if self._headers.get(b"expect", b"").lower() == b"100-continue" and self._transport:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if head.streams_body:
            request.body_stream = BodyStream(self)
            self.server.handle(request)

    def _announced_length(self) -> int:
        text = self._headers.get(b"content-length")
        return int(text) if text and text.isdigit() and len(text) < 19 else 0

    def on_body(self, piece: bytes) -> None:
        request = self._arriving
        if self._discarding or request is None:
            return
        self._body_bytes += len(piece)
        if self._body_bytes > self._body_limit:
            error = BodyTooLarge(f"the body may have {self._body_limit} bytes")
            request.keep_alive = False
            self._discarding = True
            if request.body_stream is not None:
                request.body_stream.end(error)
            else:
                request.fail(error)
        elif request.body_stream is not None:
            request.body_stream.put(piece)
        elif not request.body:
            request.body = piece
        else:
            if isinstance(request.body, bytes):
                request.body = bytearray(request.body)
            request.body += piece

    def on_message_complete(self) -> None:
        if (
            self._parser.should_upgrade()
            and self._arriving is not None
            and (self._arriving.head.body_length or b"transfer-encoding" in self._headers)
        ):
            return  # its body is yet to come; see `_feed`
        request, self._arriving = self._arriving, None
        self._since = time.monotonic()
        self._completed += 1
        self._repeatable = None
        if self._discarding:
            self._discarding = False
        elif request is not None:
            if request.body_stream is not None:
                request.body_stream.end()
            else:
                if request.keep_alive and not self._headers.keys() & _NOT_REPEATABLE:
                    self._repeatable = request.head
                self.server.handle(request)

    # -- answers ----------------------------------------------------------------------------

    def answered(self, request: Request) -> None:
        """`request` has its answer; write it, and those after it that waited for their turn."""
        requests = self._requests
        transport = self._transport
        usual = len(requests) == 1 and requests[0] is request and request.keep_alive
        if usual and transport is not None and not self._turns and not self._paused:
            # Nobody before it, nobody after it: the loop below would do the same.
            requests.popleft()
            transport.write(request.taken_answer())
            return
        while requests and requests[0].is_answered and requests[0] not in self._turns:
            head = requests.popleft()
            if self._transport is None:
                return
            self._transport.write(head.taken_answer())
            if not head.keep_alive:
                self._close_after_answer()
                return
        self._next_turn()

    async def turn_of(self, request: Request) -> None:
        """Wait until every earlier request of this connection is answered."""
        self._turns[request] = turn = self.server.loop.create_future()
        self._next_turn()
        await turn

    async def write_streamed(self, request: Request, data: bytes) -> None:
        """Raises Unavailable if the client is gone."""
        if self._transport is None:
            raise Unavailable("the client went away")
        self._transport.write(data)
        if self._writable is not None:
            await self._writable

    def stream_ended(self, request: Request) -> None:
        self._turns.pop(request, None)
        self.answered(request)

    def abort(self) -> None:
        """Cut the connection: the only honest end of an answer that cannot be completed."""
        if self._transport is not None:
            self._transport.abort()

    def _next_turn(self) -> None:
        if self._requests:
            turn = self._turns.get(self._requests[0])
            if turn is not None and not turn.done():
                turn.set_result(None)
        if self._paused and len(self._requests) < MAX_PIPELINED:
            self.resume_body()

    def _close_after_answer(self) -> None:
        self._closing = True
        if self._transport is not None:
            self._transport.close()

    def _refuse(self, error: MaasError) -> None:
        """The bytes make no sense or too much of it: say so after what is owed, and close."""
        request = self._arriving
        if request is None or request.is_answered:
            request = Request(self, Head("GET", b"/", {}), self._since)
            self._requests.append(request)
        request.keep_alive = False
        request.fail(error)
        self._closing = True

    # -- pace -------------------------------------------------------------------------------

    def pause_body(self) -> None:
        if self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume_body(self) -> None:
        if self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    @property
    def is_idle(self) -> bool:
        return not self._requests and not self._in_head

    def check_pace(self, now: float) -> None:
        """Called about once a second: close who is idle, and who is too slow on purpose."""
        if self._transport is None:
            return
        waited = now - self._since
        if self._write_stalled_since and now - self._write_stalled_since > STALLED_WRITE_SECONDS:
            self._transport.abort()
        elif self._in_head:
            if waited > HEAD_SECONDS:
                self._refuse(RequestTimeout("the request's head took too long"))
        elif self._arriving is not None:
            enough = (waited - BODY_GRACE_SECONDS) * BODY_BYTES_PER_SECOND
            if self._body_bytes < enough and self._transport.is_reading():
                self._refuse(RequestTimeout("the request's body arrives too slowly"))
        elif not self._requests and waited > IDLE_SECONDS:
            self._transport.close()

    def close_if_idle(self) -> None:
        if self.is_idle and self._transport is not None:
            self._transport.close()
