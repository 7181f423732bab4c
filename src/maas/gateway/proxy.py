"""Hands requests for control to control: plain HTTP/1.1 over its unix socket.

The gateway has authenticated the caller; control learns who it is from headers that only we can
set, because only this user may open the socket. Bodies stream both ways.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from pathlib import Path

import httptools

from maas.domain.errors import DeadlineExceeded, MaasError, Unavailable
from maas.gateway.calls import deadline_of, key_of
from maas.gateway.http.request import Request
from maas.gateway.metering import Meter
from maas.serving.routing.router import Router

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 75.0
"""How long control may neither take a byte of a request nor give one of its answer."""
EXPLAIN_SECONDS = 75.0
"""Both are longer than control takes to give an explanation up, for it says more about why."""
ACCOUNT_SECONDS = 3.0
"""How long after its deadline an explanation waits for control's account of what it took."""
_FORWARDED = (b"content-type", b"accept", b"x-request-id", b"if-none-match", b"if-match",
              b"range")  # fmt: skip
"""What frames the body is not among them: we say ourselves how we send it."""
_RETURNED = (b"content-disposition", b"x-content-type-options", b"etag", b"retry-after",
             b"location", b"allow", b"cache-control", b"content-security-policy")  # fmt: skip


class ControlProxy:
    def __init__(self, socket: Path, meter: Meter, router: Router) -> None:
        self._socket = str(socket)
        self._meter = meter
        self._router = router
        self._running: set[asyncio.Task[None]] = set()

    def forward(self, request: Request) -> None:
        """Answer `request` with what control says; raises BadRequest for a wrong deadline."""
        self._start(request, None, deadline_of(request, math.inf))

    def explain(self, request: Request) -> None:
        """As `forward`, and counted as the deployment's usage; raises NotFound too."""
        deployment = self._router.get(request.params[0]).name
        deadline = deadline_of(request, EXPLAIN_SECONDS)
        self._start(request, deployment, deadline + ACCOUNT_SECONDS)

    def _start(self, request: Request, deployment: str | None, deadline: float) -> None:
        task = asyncio.ensure_future(self._answer(request, deployment, deadline))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        if deployment is None:
            request.on_disconnect = lambda: _cancel(task)
        # Control explains on for a caller who left, and says only at the end what that took.

    async def _answer(self, request: Request, deployment: str | None, deadline: float) -> None:
        response = _Response()
        status, failure = 0, None
        try:
            status = await self._exchange(request, response, deadline)
        except MaasError as error:
            failure = error
        except (OSError, httptools.HttpParserError, asyncio.IncompleteReadError) as wrong:
            log.warning("control did not answer: %s", wrong)
            failure = Unavailable("control is not there at the moment", retry_after=1.0)
        if deployment is not None:
            self._meter.used(
                key_of(request),
                deployment,
                "explain",
                response.number(b"x-maas-rows"),
                response.number(b"x-maas-compute-us"),
                is_answer=status == 200,
            )
        if failure is not None:
            _fail(request, failure)

    async def _exchange(self, request: Request, response: _Response, deadline: float) -> int:
        """The status of control's answer, which the client has then."""
        loop = request.connection.server.loop
        # A bare socket, because a stream forgets what it has read when a write fails, and control
        # may refuse a request and close before it has read the body.
        with socket.socket(socket.AF_UNIX) as control:
            control.setblocking(False)
            try:
                async with asyncio.timeout(None) as limit:
                    patience = ProxyDeadline(limit, loop, deadline)
                    patience.with_control()
                    await loop.sock_connect(control, self._socket)
                    return await Exchange(request, response, control, patience).run()
            except TimeoutError:
                raise DeadlineExceeded("control did not answer in time") from None


def _fail(request: Request, error: MaasError) -> None:
    if request.is_streaming:
        request.connection.abort()
    else:
        request.fail(error)


def _cancel(task: asyncio.Future[None] | asyncio.Future[int]) -> None:
    if not task.cancel() and not task.cancelled():
        task.exception()  # seen, or asyncio complains that nobody looked


class ProxyDeadline:
    """When an exchange is given up: at its deadline, or when control makes no progress."""

    def __init__(
        self, limit: asyncio.Timeout, loop: asyncio.AbstractEventLoop, deadline: float
    ) -> None:
        """`deadline` is in seconds on the monotonic clock, or infinite."""
        self._limit = limit
        self._loop = loop
        self._deadline = loop.time() + (deadline - time.monotonic())

    def with_control(self) -> None:
        """It is control's turn to do something: the wait begins anew."""
        self._set(min(self._deadline, self._loop.time() + PROGRESS_SECONDS))

    def with_client(self) -> None:
        """We wait for the client, whose pace is its connection's business."""
        self._set(self._deadline)

    def _set(self, when: float) -> None:
        self._limit.reschedule(None if math.isinf(when) else when)


class Exchange:
    """One request on its way to control, and the answer on its way back."""

    def __init__(
        self, request: Request, response: _Response, control: socket.socket, patience: ProxyDeadline
    ) -> None:
        self._request = request
        self._response = response
        self._control = control
        self._loop = request.connection.server.loop
        self._patience = patience
        self._is_sent = asyncio.Event()

    async def run(self) -> int:
        """Until the client has control's answer; returns its status."""
        sending = asyncio.ensure_future(self._send())
        relaying = asyncio.ensure_future(self._relay())
        try:
            await asyncio.wait({sending, relaying}, return_when=asyncio.FIRST_COMPLETED)
            if not relaying.done():
                await sending  # raises if the client's body ended badly
            return await relaying
        finally:
            _cancel(sending)
            _cancel(relaying)

    # -- the request ------------------------------------------------------------------------

    async def _send(self) -> None:
        request, stream = self._request, self._request.body_stream
        chunked = stream is not None and request.head.is_chunked
        await self._loop.sock_sendall(self._control, _head_for_control(request))
        if stream is None:
            await self._sent(request.body)
        else:
            is_open = True
            self._patience.with_client()
            async for piece in stream.pieces():
                # Control may have refused already and gone; the rest is read all the same,
                # because a client that is still sending would not see an answer.
                if is_open:
                    framed = b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
                    is_open = await self._sent(framed)
                self._patience.with_client()
            if chunked and is_open:
                await self._sent(b"0\r\n\r\n")
        self._patience.with_control()
        self._is_sent.set()

    async def _sent(self, data: bytes | bytearray) -> bool:
        """Sends; False if control reads no more."""
        self._patience.with_control()
        try:
            await self._loop.sock_sendall(self._control, data)
        except ConnectionError:
            return False
        return True

    # -- the answer -------------------------------------------------------------------------

    async def _relay(self) -> int:
        """Pass the answer on once the request has been read; returns its status."""
        request, response = self._request, self._response
        parser = httptools.HttpResponseParser(response)
        while not response.has_head:
            parser.feed_data(await self._read())
        await self._is_sent.wait()
        status = int(parser.get_status_code())
        headers = tuple((n, response.headers[n]) for n in _RETURNED if n in response.headers)
        content_type = response.headers.get(b"content-type", b"application/octet-stream")
        announced = response.headers.get(b"content-length")
        if response.is_whole:
            request.respond(status, b"".join(response.pieces), content_type, headers)
            return status
        self._patience.with_client()
        body = await request.stream(
            status, content_type, headers, int(announced) if announced is not None else None
        )
        if request.method == "HEAD":
            response.is_whole = True
        while True:
            pieces, response.pieces = response.pieces, []
            self._patience.with_client()
            for piece in pieces:
                await body.send(piece)
            if response.is_whole:
                break
            self._patience.with_control()
            parser.feed_data(await self._read())
        body.end()
        return status

    async def _read(self) -> bytes:
        data = await self._loop.sock_recv(self._control, 1 << 16)
        if not data:
            raise asyncio.IncompleteReadError(b"", None)
        if self._is_sent.is_set():
            self._patience.with_control()
        return data


def _head_for_control(request: Request) -> bytes:
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.target), b"host: control",
             b"connection: close"]  # fmt: skip
    key = key_of(request)
    # A name may hold anything printable; a header may not.
    name = key.name.encode("ascii", "backslashreplace")
    lines.append(b"x-maas-key-id: " + key.id.encode())
    lines.append(b"x-maas-key-name: " + name)
    lines.append(b"x-maas-scopes: " + ",".join(key.scopes).encode())
    lines.append(b"x-maas-deadline: %f" % deadline_of(request, EXPLAIN_SECONDS))
    lines += [b"%b: %b" % (n, request.headers[n]) for n in _FORWARDED if n in request.headers]
    head = request.head
    if request.body_stream is not None and head.is_chunked:
        lines.append(b"transfer-encoding: chunked")
    elif request.body_stream is not None:
        lines.append(b"content-length: %d" % head.body_length)
    elif request.body or head.method not in ("GET", "HEAD"):
        lines.append(b"content-length: %d" % len(request.body))
    return b"\r\n".join((*lines, b"", b""))


class _Response:
    """What control answers, as httptools reads it."""

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        self.has_head = False
        self.is_whole = False

    def number(self, header: bytes) -> int:
        """What control says in a header of its answer; 0 if nothing."""
        return int(self.headers.get(header, b"0"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.has_head = True

    def on_body(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def on_message_complete(self) -> None:
        self.is_whole = True
