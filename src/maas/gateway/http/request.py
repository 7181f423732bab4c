"""One HTTP request and the ways to answer it."""

from __future__ import annotations

import json
from asyncio import AbstractEventLoop, Future
from collections.abc import AsyncIterator, Callable
from functools import partial
from http import HTTPStatus
from typing import Any, Protocol

from maas.domain.errors import MaasError, Unavailable
from maas.domain.keys import Key

JSON = b"application/json"
PROBLEM = b"application/problem+json"

_BODILESS = (204, 304)
_USUAL_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: "

Headers = tuple[tuple[bytes, bytes], ...]
ErrorShape = Callable[[MaasError, str], tuple[int, bytes, bytes]]
"""An error and a request id → status, content type and body."""


class ServerContext(Protocol):
    """The server, as its requests use it."""

    loop: AbstractEventLoop
    draining: bool
    date_line: bytes


class RequestConnection(Protocol):
    """A connection, as its requests use it."""

    @property
    def server(self) -> ServerContext: ...
    def answered(self, request: Request) -> None: ...
    async def wait_for_turn(self, request: Request) -> None: ...
    def write_streamed(self, request: Request, data: bytes) -> Future[None] | None: ...
    def stream_ended(self, request: Request) -> None: ...
    def abort(self) -> None: ...
    def pause_body(self) -> None: ...
    def resume_body(self) -> None: ...
    def drop_body(self) -> None: ...


class RequestHead:
    """A request's head and what was decided by it. It does not change once the request is handled.

    Clients often send the same head again. The server caches heads by their bytes, and neither
    parses nor checks a cached head again.
    """

    __slots__ = (
        "body_length",
        "error_shape",
        "handler",
        "headers",
        "is_chunked",
        "is_http_10",
        "is_usual",
        "keep_alive",
        "key",
        "method",
        "params",
        "request_id",
        "streams_body",
        "target",
        "terms",
    )

    def __init__(
        self,
        method: str,
        target: bytes,
        headers: dict[bytes, bytes],
        is_http_10: bool = False,
    ) -> None:
        """`headers` has lower-case names. An HTTP/1.0 client does not understand chunks, and keeps
        its connection only if the response has `connection: keep-alive`."""
        self.method = method
        self.target = target
        self.headers = headers
        self.request_id = headers.get(b"x-request-id", b"")[:128]
        self.is_http_10 = is_http_10
        self.is_usual = not (self.request_id or is_http_10 or method == "HEAD")
        """Whether the response's head is the same as for most requests."""
        self.keep_alive = True
        self.is_chunked = False
        self.body_length = 0
        """The Content-Length; 0 for a chunked body."""
        self.params: tuple[str, ...] = ()
        self.key: Key | None = None
        self.handler: Callable[[Request], None] | None = None
        self.streams_body = False
        self.error_shape: ErrorShape = problem_shape
        self.terms: tuple[Any, ...] | None = None
        """The result of `calls.terms_of`, reused by all requests with this head."""


class Request:
    """An HTTP request, as handlers receive it.

    Exactly one of `respond`, `fail` and `stream` answers it, once.
    """

    __slots__ = (
        "answer",
        "body",
        "body_stream",
        "connection",
        "head",
        "keep_alive",
        "on_disconnect",
        "received",
    )

    def __init__(
        self, connection: RequestConnection, head: RequestHead, received: float, body: bytes = b""
    ) -> None:
        """`received` is when the head arrived, in seconds on the monotonic clock."""
        self.connection = connection
        self.head = head
        self.received = received
        self.body: bytes | bytearray = body
        self.body_stream: BodyStream | None = None
        self.keep_alive = head.keep_alive
        self.on_disconnect: Callable[[], None] | None = None
        """Called if the client disconnects before it has an answer."""
        self.answer: bytes | None = None
        """The answer, which the connection writes when it is this request's turn; b"" if it is
        streamed; None before there is one."""

    @property
    def method(self) -> str:
        return self.head.method

    @property
    def target(self) -> bytes:
        return self.head.target

    @property
    def headers(self) -> dict[bytes, bytes]:
        return self.head.headers

    @property
    def params(self) -> tuple[str, ...]:
        return self.head.params

    @property
    def key(self) -> Key | None:
        return self.head.key

    @property
    def is_answered(self) -> bool:
        return self.answer is not None

    @property
    def is_streaming(self) -> bool:
        """Whether a streamed answer has begun, which an error cannot replace."""
        return self.answer == b""

    def respond(
        self,
        status: int,
        body: bytes,
        content_type: bytes = JSON,
        headers: Headers = (),
    ) -> None:
        """Send a complete response. Ignored if the request has one or the client disconnected."""
        if self.answer is None:
            self.on_disconnect = None
            head = self.head
            server = self.connection.server
            if (
                status == 200
                and content_type is JSON
                and head.is_usual
                and self.keep_alive
                and self.body_stream is None
                and not headers
                and not server.draining
            ):
                # Nearly every response. The general way below has the same result.
                self.answer = b"%b%d\r\n%b%b" % (_USUAL_HEAD, len(body), server.date_line, body)
            else:
                answer = self._answer_head(status, content_type, headers, len(body))
                has_body = head.method != "HEAD" and status not in _BODILESS
                self.answer = answer + body if has_body else answer
            self.connection.answered(self)

    def fail(self, error: MaasError) -> None:
        """Respond with `error` in the format of the route's protocol."""
        extra: list[tuple[bytes, bytes]] = []
        if error.retry_after is not None:
            extra.append((b"retry-after", b"%d" % max(1, round(error.retry_after))))
        request_id = self.head.request_id.decode("ascii", "replace")
        status, content_type, body = self.head.error_shape(error, request_id)
        if status == 401:
            extra.append((b"www-authenticate", b'Bearer realm="maas"'))
        if status == 405 and "allow" in error.details:
            extra.append((b"allow", str(error.details["allow"]).encode()))
        self.respond(status, body, content_type, tuple(extra))

    async def stream(
        self, status: int, content_type: bytes, headers: Headers, length: int | None
    ) -> AnswerStream:
        """Send the head of a response whose body follows in pieces.

        Without a `length`, the body is sent in chunks, or to an HTTP/1.0 client until the
        connection closes. The rest of the request's body is dropped. Raises Unavailable if the
        client disconnected.
        """
        await self.connection.wait_for_turn(self)
        self.on_disconnect = None
        self.answer = b""
        head = self._answer_head(status, content_type, headers, length)
        behind = self.connection.write_streamed(self, head)
        if behind is not None:
            await behind
        return AnswerStream(self, is_chunked=length is None and not self.head.is_http_10)

    def _answer_head(
        self, status: int, content_type: bytes, headers: Headers, length: int | None
    ) -> bytes:
        if self.body_stream is not None:
            self.body_stream.discard()
        head, server = self.head, self.connection.server
        if server.draining or (length is None and head.is_http_10):
            self.keep_alive = False
        lines = [_status_line(status)]
        if status not in _BODILESS:
            lines.append(b"content-type: %b\r\n" % content_type)
            if length is not None:
                lines.append(b"content-length: %d\r\n" % length)
            elif not head.is_http_10:
                lines.append(b"transfer-encoding: chunked\r\n")
        lines += [b"%b: %b\r\n" % header for header in headers]
        if head.request_id:
            lines.append(b"x-request-id: %b\r\n" % head.request_id)
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        elif head.is_http_10:
            lines.append(b"connection: keep-alive\r\n")
        lines.append(server.date_line)
        return b"".join(lines)


class AnswerStream:
    """The body of a streamed response. Methods raise Unavailable if the client disconnected."""

    __slots__ = ("_is_chunked", "_request")

    def __init__(self, request: Request, *, is_chunked: bool) -> None:
        self._request = request
        self._is_chunked = is_chunked

    def put(self, piece: bytes) -> Future[None] | None:
        """Send a piece. If a future is returned, the client is slow: send no more until it is
        done."""
        request = self._request
        if not piece or request.method == "HEAD":
            return None  # an empty chunk would end the body
        framed = b"%x\r\n%b\r\n" % (len(piece), piece) if self._is_chunked else piece
        return request.connection.write_streamed(request, framed)

    async def send(self, piece: bytes) -> None:
        """Send a piece, and wait until the client can take more."""
        behind = self.put(piece)
        if behind is not None:
            await behind

    def end(self) -> None:
        request = self._request
        if self._is_chunked and request.method != "HEAD":
            request.connection.write_streamed(request, b"0\r\n\r\n")
        request.connection.stream_ended(request)


class BodyStream:
    """A request's body that is consumed while it arrives.

    The connection is not read while a piece is unconsumed.
    """

    def __init__(self, connection: RequestConnection) -> None:
        self._connection = connection
        self._pieces: list[bytes] = []
        self._ended = False
        self._failed: MaasError | None = None
        self._wake: Callable[[], None] | None = None

    def put(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._connection.pause_body()
        self._notify()

    def end(self, error: MaasError | None = None) -> None:
        """End the body, with an `error` if it is incomplete. Later calls are ignored."""
        if self._ended:
            return
        self._ended = True
        self._failed = error
        self._connection.resume_body()
        self._notify()

    def discard(self) -> None:
        """Drop the rest of the body as it arrives."""
        self._pieces.clear()
        if not self._ended:
            self.end(Unavailable("the request was answered before its body ended"))
            self._connection.drop_body()

    def _notify(self) -> None:
        if self._wake is not None:
            self._wake()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Iterate over the pieces. Raises the error with which the body ended."""
        loop = self._connection.server.loop
        while True:
            while self._pieces:
                yield self._pieces.pop(0)
            if self._failed is not None:
                raise self._failed
            if self._ended:
                return
            arrived: Future[None] = loop.create_future()
            self._wake = partial(_set_once, arrived)
            self._connection.resume_body()
            await arrived
            self._wake = None


def _set_once(future: Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def media_type(headers: dict[bytes, bytes]) -> bytes:
    """The content type in lower case and without parameters; b"" if there is none."""
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


_STATUS_LINES: dict[int, bytes] = {}


def _status_line(status: int) -> bytes:
    line = _STATUS_LINES.get(status)
    if line is None:
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = ""
        line = _STATUS_LINES[status] = f"HTTP/1.1 {status} {phrase}\r\n".encode()
    return line


def problem_shape(error: MaasError, request_id: str) -> tuple[int, bytes, bytes]:
    """The error as a problem document (RFC 9457), for `/predict`, `/explain` and control."""
    return error.status, PROBLEM, json.dumps(error.to_problem(request_id or None)).encode()


def oip_shape(error: MaasError, request_id: str) -> tuple[int, bytes, bytes]:
    """The error for the Open Inference Protocol v2: an object with one string."""
    return error.status, JSON, json.dumps({"error": error.message}).encode()
