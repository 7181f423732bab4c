"""Parses requests with llhttp (through httptools), and limits the size of heads."""

from __future__ import annotations

from typing import Protocol

import httptools

from maas.domain.errors import BadRequest, HeadersTooLarge, MaasError
from maas.gateway.http.request import RequestHead

MAX_HEAD_BYTES = 32 << 10
MAX_HEADERS = 100
MAX_TARGET_BYTES = 8 << 10
_ONCE = frozenset({b"host", b"authorization", b"x-api-key", b"content-length"})


class Sink(Protocol):
    """Receives what was parsed. Each method may raise MaasError to refuse it."""

    def head_began(self) -> None: ...
    def head_read(self, head: RequestHead) -> None: ...
    def body_read(self, piece: bytes) -> None: ...
    def request_read(self) -> None: ...


class RequestReader:
    """Parses the bytes of one connection into heads, pieces of bodies and ends of requests."""

    __slots__ = ("_field_bytes", "_head", "_headers", "_loose_bytes", "_parser", "_replaying",
                 "_sink", "_target", "in_head")  # fmt: skip

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._parser = httptools.HttpRequestParser(self)
        self.in_head = False
        """Whether a head has begun and not ended."""
        self._head: RequestHead | None = None
        """The head of the request whose body is being parsed."""
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._field_bytes = 0
        self._loose_bytes = 0
        """Bytes since the parser's last callback: of heads, chunk extensions and trailers."""
        self._replaying = False
        """Whether a new parser is brought to the state of the one before it."""

    def feed(self, data: bytes) -> None:
        """Parse `data`. Raises MaasError if it is not HTTP/1.1, exceeds a limit, or is refused by
        the sink."""
        self._loose_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if isinstance(cause, MaasError):
                raise cause from None
            raise
        except httptools.HttpParserError as error:
            raise BadRequest(f"not HTTP/1.1: {error}") from None
        if (self.in_head or self._head is not None) and self._loose_bytes > MAX_HEAD_BYTES:
            raise HeadersTooLarge()

    def _feed(self, data: bytes) -> None:
        """Feed `data` to the parser, and ignore requests to upgrade the protocol.

        llhttp stops after a head with `Upgrade`, which Java's HttpClient sends for HTTP/2. The
        server may ignore it (RFC 9110, 7.8). A new parser then reads the body, if there is one.
        """
        while data:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._parser = httptools.HttpRequestParser(self)
                if self._head is not None:
                    self._replaying = True
                    framing = (
                        b"transfer-encoding: chunked"
                        if self._head.is_chunked
                        else b"content-length: %d" % self._head.body_length
                    )
                    self._parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")

    # -- httptools --------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._replaying:
            return
        self._target = b""
        self._headers = {}
        self._field_bytes = 0
        self.in_head = True
        self._sink.head_began()

    def on_url(self, url: bytes) -> None:
        if self._replaying:
            return
        self._target += url
        if len(self._target) > MAX_TARGET_BYTES:
            raise HeadersTooLarge(f"the request line is longer than {MAX_TARGET_BYTES} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._replaying:
            return
        name = name.lower()
        self._field_bytes += len(name) + len(value)
        if self._field_bytes > MAX_HEAD_BYTES:
            raise HeadersTooLarge(f"the headers are longer than {MAX_HEAD_BYTES} bytes")
        if not self.in_head:
            return  # trailers are ignored: the request was authenticated by its head
        if name in self._headers:
            if name in _ONCE:
                raise BadRequest(f"the header {name.decode()} may be sent only once")
            value = self._headers[name] + b", " + value
        elif len(self._headers) >= MAX_HEADERS:
            raise HeadersTooLarge(f"more than {MAX_HEADERS} headers")
        self._headers[name] = value

    def on_headers_complete(self) -> None:
        if self._replaying:
            self._replaying = False
            return
        self.in_head = False
        self._loose_bytes = 0
        parser = self._parser
        head = RequestHead(
            parser.get_method().decode(),
            self._target,
            self._headers,
            is_http_10=parser.get_http_version() != "1.1",
        )
        head.keep_alive = parser.should_keep_alive()
        head.is_chunked = b"transfer-encoding" in self._headers
        head.body_length = int(self._headers.get(b"content-length", b"").lstrip(b"0") or b"0")
        self._head = head
        self._sink.head_read(head)

    def on_body(self, piece: bytes) -> None:
        self._loose_bytes = 0
        self._sink.body_read(piece)

    def on_message_complete(self) -> None:
        head = self._head
        has_body = head is not None and (head.is_chunked or head.body_length > 0)
        if has_body and self._parser.should_upgrade():
            return  # the body follows; see `_feed`
        self._head = None
        self._sink.request_read()
