"""Connections of a load: a minimal HTTP/1.1 client, so that the server is the bottleneck.

The transport of the SDK does more work per request than the server of a small model.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httptools
import httpx2
import msgspec

from maas.client.http.calls import ApiReply, error_in, error_of
from maas.client.http.errors import ServerUnavailable
from maas.client.http.transport import Endpoint
from maas.domain.errors import MaasError
from maas.version import __version__

MAX_ERROR_BYTES = 1 << 16
MAX_EVENT_BYTES = 1 << 20
CONNECT_S = 10.0

BodyCallback = Callable[[bytes], None]
"""Called with each part of a response body as it arrives; must not raise."""


@dataclass(frozen=True)
class Address:
    """The server under load, and the headers that all requests share."""

    host: str
    port: int
    base_path: str
    headers: bytes
    secure: ssl.SSLContext | None

    @classmethod
    def of(cls, endpoint: Endpoint) -> Address:
        url = httpx2.URL(endpoint.base_url)
        secure = url.scheme == "https"
        lines = [
            f"host: {url.netloc.decode('ascii')}",
            f"user-agent: openmaas-bench/{__version__}",
            "content-type: application/json",
            "accept: application/json, text/event-stream",
        ]
        if endpoint.api_key:
            lines.append(f"authorization: Bearer {endpoint.api_key}")
        return cls(
            host=url.host,
            port=url.port or (443 if secure else 80),
            base_path=url.path.rstrip("/"),
            headers="\r\n".join(lines).encode("ascii"),
            secure=ssl.create_default_context() if secure else None,
        )

    def post(self, path: str, body: bytes) -> bytes:
        """The bytes of a request."""
        return (
            f"POST {self.base_path}{path} HTTP/1.1\r\n".encode()
            + self.headers
            + b"\r\ncontent-length: %d\r\n\r\n" % len(body)
            + body
        )


class LoadConnection(asyncio.Protocol):
    """One connection with one request at a time; it reconnects after a failure."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._answer: asyncio.Future[None] | None = None
        self._on_data: BodyCallback = _ignore
        self._error_body = bytearray()
        self._headers: dict[str, str] = {}

    async def connect(self) -> None:
        """Open the connection. Raises ServerUnavailable."""
        address = self._address
        try:
            async with asyncio.timeout(CONNECT_S):
                await asyncio.get_running_loop().create_connection(
                    lambda: self, address.host, address.port, ssl=address.secure
                )
        except (OSError, TimeoutError) as error:
            raise ServerUnavailable(
                f"no connection to {address.host}:{address.port}: {error}"
            ) from None

    async def send(self, request: bytes, on_data: BodyCallback) -> None:
        """Send `request` and wait until its response is complete.

        `on_data` is called with the body of a response below 400. Raises the error that any other
        response describes, or ServerUnavailable.
        """
        if self._transport is None:
            await self.connect()
        if self._transport is None:
            raise ServerUnavailable("the server closed the connection at once")
        answer = asyncio.get_running_loop().create_future()
        self._answer, self._on_data = answer, on_data
        self._transport.write(request)
        try:
            await answer
        finally:
            self._answer, self._on_data = None, _ignore
            if answer.cancelled():
                self.close()

    def close(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    # -- asyncio ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(MaasError(f"the response is not HTTP: {error}"))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._end(ServerUnavailable("the connection broke before the response ended"))

    def _end(self, error: MaasError | None) -> None:
        if self._answer is None or self._answer.done():
            return
        if error is None:
            self._answer.set_result(None)
        else:
            self._answer.set_exception(error)

    # -- httptools --------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._error_body.clear()
        self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        if self._parser.get_status_code() < 400:
            self._on_data(data)
        elif len(self._error_body) < MAX_ERROR_BYTES:
            self._error_body += data

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.close()
        if status < 400:
            self._end(None)
        else:
            self._end(error_of(ApiReply(status, self._headers, bytes(self._error_body))))


class _Choice(msgspec.Struct):
    text: str = ""


class _Details(msgspec.Struct):
    cached_tokens: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Chunk).decode


class StreamTimings:
    """Reads the event stream of one completion and records arrival times and usage.

    `first` and `last` are the times of the first and the last text (`time.perf_counter`).
    """

    def __init__(self) -> None:
        self.first = 0.0
        self.last = 0.0
        self.usage: _Usage | None = None
        self.error: MaasError | None = None
        self._is_over = False
        self._rest = b""

    def feed(self, data: bytes) -> None:
        now = time.perf_counter()
        *events, self._rest = (self._rest + data).split(b"\n\n")
        for event in events:
            if event.startswith(b"data:"):
                self._read(event[5:].strip(), now)
        if len(self._rest) > MAX_EVENT_BYTES:
            self.error, self._rest = (
                MaasError(f"an event of the stream is longer than {MAX_EVENT_BYTES} bytes"),
                b"",
            )

    def check(self) -> None:
        """Raise the error of the stream, or MaasError if it is incomplete."""
        if self.error is not None:
            raise self.error
        if not self._is_over or self.usage is None:
            raise MaasError("the stream ended before the answer was complete")

    def _read(self, data: bytes, now: float) -> None:
        if data == b"[DONE]":
            self._is_over = True
            return
        try:
            chunk = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.error = MaasError("an event of the stream is not a completion chunk")
            return
        if chunk.error is not None:
            self.error = error_in({"error": chunk.error}, 500)
        if chunk.usage is not None:
            self.usage = chunk.usage
        if any(choice.text for choice in chunk.choices):
            self.first = self.first or now
            self.last = now


def _ignore(_: bytes) -> None:
    return None
