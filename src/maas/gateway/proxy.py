"""Hands requests for control to control: plain HTTP/1.1 over its unix socket.

The gateway has authenticated the caller; control learns who it is from headers that only we can
set, because only this user may open the socket. Bodies stream both ways.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path

import httptools

from maas.domain.errors import MaasError, Unavailable
from maas.gateway.calls import key_of
from maas.gateway.metering import Meter
from maas.gateway.request import Request
from maas.serving.routing import Router

log = logging.getLogger(__name__)

_FORWARDED = (b"content-type", b"content-length", b"accept", b"x-request-id", b"if-none-match",
              b"if-match", b"range")  # fmt: skip
_RETURNED = (b"content-disposition", b"x-content-type-options", b"etag", b"retry-after",
             b"location", b"allow", b"cache-control", b"content-security-policy")  # fmt: skip


class ControlProxy:
    def __init__(self, socket: Path, meter: Meter, router: Router) -> None:
        self._socket = str(socket)
        self._meter = meter
        self._router = router
        self._running: set[asyncio.Task[None]] = set()

    def forward(self, request: Request) -> None:
        """Answer `request` with what control says."""
        self._start(request, None)

    def explain(self, request: Request) -> None:
        """As `forward`, and counted as the deployment's usage; raises NotFound."""
        self._start(request, self._router.get(request.params[0]).name)

    def _start(self, request: Request, deployment: str | None) -> None:
        task = asyncio.ensure_future(self._answer(request, deployment))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        request.on_disconnect = lambda: _cancel(task)

    async def _answer(self, request: Request, deployment: str | None) -> None:
        try:
            status = await self._exchange(request)
        except MaasError as error:
            if deployment is not None:
                self._meter.failed(request.key, "explain", deployment, None, error)
            if request.is_answered:
                request.wire.abort()
            else:
                request.fail(error)
            return
        except (OSError, httptools.HttpParserError, asyncio.IncompleteReadError) as error:
            log.warning("control did not answer: %s", error)
            if request.is_answered:
                request.wire.abort()
            else:
                request.fail(Unavailable("control is not there at the moment", retry_after=1.0))
            return
        if deployment is not None and status == 200:
            self._meter.used(key_of(request), deployment, "explain", 1)

    async def _exchange(self, request: Request) -> int:
        loop = request.wire.door.loop
        # A bare socket, because a stream forgets what it has read when a write fails, and control
        # may refuse a request and close before it has read the body.
        with socket.socket(socket.AF_UNIX) as control:
            control.setblocking(False)
            await loop.sock_connect(control, self._socket)
            sending = asyncio.ensure_future(_send(request, control))
            relaying = asyncio.ensure_future(_relay(request, control, sending))
            try:
                await asyncio.wait({sending, relaying}, return_when=asyncio.FIRST_COMPLETED)
                if not relaying.done():
                    await sending  # raises if the client's body ended badly
                return await relaying
            finally:
                _cancel(sending)
                _cancel(relaying)


def _cancel(task: asyncio.Future[None] | asyncio.Future[int]) -> None:
    if not task.cancel() and not task.cancelled():
        task.exception()  # seen, or asyncio complains that nobody looked


async def _send(request: Request, control: socket.socket) -> None:
    loop = request.wire.door.loop
    head = [request.method.encode(), b" ", request.target, b" HTTP/1.1\r\nhost: control\r\n"]
    key = key_of(request)
    # A name may hold anything printable; a header may not.
    name = key.name.encode("ascii", "backslashreplace")
    head += (b"connection: close\r\nx-maas-key-id: ", key.id.encode(), b"\r\n")
    head += (b"x-maas-key-name: ", name, b"\r\n")
    head += (b"x-maas-scopes: ", ",".join(key.scopes).encode(), b"\r\n")
    for header in _FORWARDED:
        if header in request.headers:
            head += (header, b": ", request.headers[header], b"\r\n")
    stream = request.body_stream
    chunked = stream is not None and b"content-length" not in request.headers
    if chunked and b"transfer-encoding" in request.headers:
        head.append(b"transfer-encoding: chunked\r\n")
    else:
        chunked = False
    await loop.sock_sendall(control, b"".join((*head, b"\r\n")))
    if stream is None:
        await _sent(request, control, request.body)
        return
    is_open = True
    async for piece in stream.pieces():
        # Control may have refused already and gone; the rest is read all the same, because a
        # client that is still sending would not see an answer.
        if is_open:
            framed = b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
            is_open = await _sent(request, control, framed)
    if chunked and is_open:
        await _sent(request, control, b"0\r\n\r\n")


async def _sent(request: Request, control: socket.socket, data: bytes | bytearray) -> bool:
    """Sends; False if control reads no more."""
    try:
        await request.wire.door.loop.sock_sendall(control, data)
    except ConnectionError:
        return False
    return True


class _Response:
    """What control answers, as httptools reads it."""

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        self.has_head = False
        self.is_whole = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.has_head = True

    def on_body(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def on_message_complete(self) -> None:
        self.is_whole = True


async def _relay(request: Request, control: socket.socket, sending: asyncio.Future[None]) -> int:
    """Pass the answer on once the request has been read; returns its status."""
    response = _Response()
    parser = httptools.HttpResponseParser(response)
    while not response.has_head:
        parser.feed_data(await _read(request, control))
    await asyncio.wait({sending})
    status = int(parser.get_status_code())
    headers = tuple((n, response.headers[n]) for n in _RETURNED if n in response.headers)
    content_type = response.headers.get(b"content-type", b"application/octet-stream")
    announced = response.headers.get(b"content-length")
    if response.is_whole:
        request.respond(status, b"".join(response.pieces), content_type, headers)
        return status
    send = await request.stream(
        status, content_type, headers, int(announced) if announced is not None else None
    )
    if request.method == "HEAD":
        response.is_whole = True
    while True:
        pieces, response.pieces = response.pieces, []
        for piece in pieces:
            await send(piece)
        if response.is_whole:
            break
        parser.feed_data(await _read(request, control))
    await send(b"")
    return status


async def _read(request: Request, control: socket.socket) -> bytes:
    data = await request.wire.door.loop.sock_recv(control, 1 << 16)
    if not data:
        raise asyncio.IncompleteReadError(b"", None)
    return data
