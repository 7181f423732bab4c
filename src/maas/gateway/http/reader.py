"""Reads requests from bytes: llhttp (through httptools) and our limits on heads."""

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
    """Who is told what was read; may raise MaasError to refuse it."""

    def head_began(self) -> None: ...
    def head_read(self, head: RequestHead) -> None: ...
    def body_read(self, piece: bytes) -> None: ...
    def request_read(self) -> None: ...


class RequestReader:
    """The bytes of one connection → heads, pieces of bodies, ends of requests."""

    __slots__ = ("_field_bytes", "_head", "_headers", "_loose_bytes", "_parser", "_replaying",
                 "_sink", "_target", "in_head")  # fmt: skip

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._parser = httptools.HttpRequestParser(self)
        self.in_head = False
        """The first byte of a head is here and its end is not."""
        self._head: RequestHead | None = None
        """Whose body is being read."""
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._field_bytes = 0
        self._loose_bytes = 0
        """Fed since the parser last had something to tell: of heads, chunk extensions, trailers."""
        self._replaying = False
        """The parser is being told again about a request whose body it has yet to read."""

    def feed(self, data: bytes) -> None:
        """Raises MaasError if this is no HTTP/1.1, too much of it, or the sink refused."""
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
            return  # a trailer: it comes after everything was checked and decided
        if name in self._headers:
            if name in _ONCE:
                raise BadRequest(f"the header {name.decode()} came twice")
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
            return  # its body is yet to come; see `_feed`
        self._head = None
        self._sink.request_read()
