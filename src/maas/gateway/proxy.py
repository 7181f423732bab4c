"""Forwards requests to control over its unix socket, as HTTP/1.1.

The gateway has authenticated the client and names it in headers. Control trusts them, because only
this user may open the socket. Bodies are streamed both ways.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import httptools

from maas.domain.errors import DeadlineExceeded, MaasError, Unavailable
from maas.gateway.calls import deadline_of, key_of
from maas.gateway.http.request import Request
from maas.gateway.metering import Meter, RelayedUsage
from maas.serving.routing.router import Router

log = logging.getLogger(__name__)

_FORWARDED = (b"content-type", b"accept", b"x-request-id", b"if-none-match", b"if-match",
              b"range")  # fmt: skip
"""Request headers that are passed on. Headers about framing are not among them: the proxy frames
the body itself."""
_RETURNED = (b"content-disposition", b"x-content-type-options", b"etag", b"retry-after",
             b"location", b"allow", b"cache-control", b"content-security-policy")  # fmt: skip
"""Response headers that are passed on."""


@dataclass(frozen=True)
class ProxyTimeouts:
    """Timeouts of exchanges with control, in seconds.

    `progress_s` and `explain_s` are longer than control's own limit on an explanation, because
    control reports the reason.
    """

    progress_s: float = 75.0
    """How long control may neither read a byte of the request nor send one of the response."""
    explain_s: float = 75.0
    """Longest time for an explanation."""
    usage_grace_s: float = 3.0
    """How long after its deadline an explanation waits for control to report its usage."""


class ControlProxy:
    """Forwards requests to control."""

    def __init__(
        self, socket: Path, meter: Meter, router: Router, timeouts: ProxyTimeouts | None = None
    ) -> None:
        self._socket = str(socket)
        self._meter = meter
        self._router = router
        self._timeouts = timeouts or ProxyTimeouts()
        self._running: set[asyncio.Task[None]] = set()

    def forward(self, request: Request) -> None:
        """Answer `request` with control's response. Raises BadRequest for a malformed deadline."""
        self._start(request, None, deadline_of(request, math.inf))

    def explain(self, request: Request) -> None:
        """Like `forward`, and count the usage of the deployment. Raises NotFound, too."""
        deployment = self._router.get(request.params[0]).name
        deadline = deadline_of(request, self._timeouts.explain_s)
        self._start(request, deployment, deadline + self._timeouts.usage_grace_s)

    def _start(self, request: Request, deployment: str | None, deadline: float) -> None:
        task = asyncio.ensure_future(self._answer(request, deployment, deadline))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        # An explanation goes on after its client disconnects: control reports its usage at the end.
        if deployment is None:
            request.on_disconnect = lambda: _cancel(task)

    async def _answer(self, request: Request, deployment: str | None, deadline: float) -> None:
        response = _Response()
        status, failure = 0, None
        try:
            status = await self._exchange(request, response, deadline)
        except MaasError as error:
            failure = error
        except (OSError, httptools.HttpParserError, asyncio.IncompleteReadError) as error:
            log.warning("control did not answer: %s", error)
            failure = Unavailable("control is not available at the moment", retry_after=1.0)
        if deployment is not None:
            usage = RelayedUsage(
                response.number(b"x-maas-rows"),
                response.number(b"x-maas-compute-us"),
                is_success=status == 200,
            )
            self._meter.relayed(key_of(request), deployment, "explain", usage)
        if failure is not None:
            _fail(request, failure)

    async def _exchange(self, request: Request, response: _Response, deadline: float) -> int:
        """Forward the request and send control's response to the client; returns its status."""
        loop = request.connection.server.loop
        # A plain socket, because an asyncio stream loses unread data when a write fails, and
        # control may refuse a request and close the connection before it has read the body.
        with socket.socket(socket.AF_UNIX) as control:
            control.setblocking(False)
            try:
                async with asyncio.timeout(None) as timeout:
                    timer = ExchangeTimer(timeout, loop, deadline, self._timeouts.progress_s)
                    timer.wait_for_control()
                    await loop.sock_connect(control, self._socket)
                    await loop.sock_sendall(control, self._head_for_control(request))
                    return await Exchange(request, response, control, timer).run()
            except TimeoutError:
                raise DeadlineExceeded("control did not answer in time") from None

    def _head_for_control(self, request: Request) -> bytes:
        lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.target), b"host: control",
                 b"connection: close"]  # fmt: skip
        key = key_of(request)
        # A name may have any printable character; a header is ASCII.
        name = key.name.encode("ascii", "backslashreplace")
        lines.append(b"x-maas-key-id: " + key.id.encode())
        lines.append(b"x-maas-key-name: " + name)
        lines.append(b"x-maas-scopes: " + ",".join(key.scopes).encode())
        lines.append(b"x-maas-deadline: %f" % deadline_of(request, self._timeouts.explain_s))
        lines += [b"%b: %b" % (n, request.headers[n]) for n in _FORWARDED if n in request.headers]
        head = request.head
        if request.body_stream is not None and head.is_chunked:
            lines.append(b"transfer-encoding: chunked")
        elif request.body_stream is not None:
            lines.append(b"content-length: %d" % head.body_length)
        elif request.body or head.method not in ("GET", "HEAD"):
            lines.append(b"content-length: %d" % len(request.body))
        return b"\r\n".join((*lines, b"", b""))


def _fail(request: Request, error: MaasError) -> None:
    if request.is_streaming:
        request.connection.abort()
    else:
        request.fail(error)


def _cancel(task: asyncio.Future[None] | asyncio.Future[int]) -> None:
    if not task.cancel() and not task.cancelled():
        task.exception()  # asyncio logs exceptions that are never retrieved


class ExchangeTimer:
    """Ends an exchange at its deadline, or earlier if control makes no progress."""

    def __init__(
        self,
        timeout: asyncio.Timeout,
        loop: asyncio.AbstractEventLoop,
        deadline: float,
        progress_s: float,
    ) -> None:
        """`deadline` is in seconds on the monotonic clock, or infinite."""
        self._timeout = timeout
        self._loop = loop
        self._deadline = loop.time() + (deadline - time.monotonic())
        self._progress_s = progress_s

    def wait_for_control(self) -> None:
        """Limit the wait for control's next step to `progress_s`."""
        self._set(min(self._deadline, self._loop.time() + self._progress_s))

    def wait_for_client(self) -> None:
        """Limit the wait only by the deadline: the client's connection has timeouts of its own."""
        self._set(self._deadline)

    def _set(self, when: float) -> None:
        self._timeout.reschedule(None if math.isinf(when) else when)


class Exchange:
    """A request whose head was sent to control: sends its body, then relays the response."""

    def __init__(
        self, request: Request, response: _Response, control: socket.socket, timer: ExchangeTimer
    ) -> None:
        self._request = request
        self._response = response
        self._control = control
        self._loop = request.connection.server.loop
        self._timer = timer
        self._is_sent = asyncio.Event()

    async def run(self) -> int:
        """Run the exchange until the client has the response; returns its status."""
        sending = asyncio.ensure_future(self._send())
        relaying = asyncio.ensure_future(self._relay())
        try:
            await asyncio.wait({sending, relaying}, return_when=asyncio.FIRST_COMPLETED)
            if not relaying.done():
                await sending  # raises if the client's body is malformed
            return await relaying
        finally:
            _cancel(sending)
            _cancel(relaying)

    # -- the request ------------------------------------------------------------------------

    async def _send(self) -> None:
        request, stream = self._request, self._request.body_stream
        chunked = stream is not None and request.head.is_chunked
        if stream is None:
            await self._send_bytes(request.body)
        else:
            is_open = True
            self._timer.wait_for_client()
            async for piece in stream.pieces():
                # The rest of the body is read even if control has refused the request and closed
                # the connection: a client that is still sending does not read a response.
                if is_open:
                    framed = b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
                    is_open = await self._send_bytes(framed)
                self._timer.wait_for_client()
            if chunked and is_open:
                await self._send_bytes(b"0\r\n\r\n")
        self._timer.wait_for_control()
        self._is_sent.set()

    async def _send_bytes(self, data: bytes | bytearray) -> bool:
        """Send `data` to control; False if control has closed the connection."""
        self._timer.wait_for_control()
        try:
            await self._loop.sock_sendall(self._control, data)
        except ConnectionError:
            return False
        return True

    # -- the response -----------------------------------------------------------------------

    async def _relay(self) -> int:
        """Relay the response after the request is sent; returns its status."""
        request, response = self._request, self._response
        parser = httptools.HttpResponseParser(response)
        while not response.has_head:
            parser.feed_data(await self._read())
        await self._is_sent.wait()
        status = int(parser.get_status_code())
        headers = tuple((n, response.headers[n]) for n in _RETURNED if n in response.headers)
        content_type = response.headers.get(b"content-type", b"application/octet-stream")
        if response.is_complete:
            request.respond(status, b"".join(response.pieces), content_type, headers)
            return status
        self._timer.wait_for_client()
        length = response.headers.get(b"content-length")
        body = await request.stream(
            status, content_type, headers, int(length) if length is not None else None
        )
        if request.method == "HEAD":
            response.is_complete = True
        while True:
            pieces, response.pieces = response.pieces, []
            self._timer.wait_for_client()
            for piece in pieces:
                await body.send(piece)
            if response.is_complete:
                break
            self._timer.wait_for_control()
            parser.feed_data(await self._read())
        body.end()
        return status

    async def _read(self) -> bytes:
        data = await self._loop.sock_recv(self._control, 1 << 16)
        if not data:
            raise asyncio.IncompleteReadError(b"", None)
        if self._is_sent.is_set():
            self._timer.wait_for_control()
        return data


class _Response:
    """Control's response, filled by the callbacks of httptools."""

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        self.has_head = False
        self.is_complete = False

    def number(self, header: bytes) -> int:
        """The value of a numeric header; 0 if the header is absent."""
        return int(self.headers.get(header, b"0"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.has_head = True

    def on_body(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def on_message_complete(self) -> None:
        self.is_complete = True
