"""HTTP servers without a model: they read `{"x": [...]}` and answer with the sum.

`rsgi` is for Granian, `asgi` for uvicorn; the program (`http_server_app.py PORT`) is a bare asyncio
protocol with uvloop and httptools. All three look up the authorization header, decode the body with
msgspec and format the response directly, so that only the server differs.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

decode = msgspec.json.Decoder(dict[str, list[float]]).decode
HEADERS = [("content-type", "application/json")]
RAW_HEADERS = [(b"content-type", b"application/json")]


def answer(body: bytes) -> bytes:
    return b'{"y_pred":%a}' % sum(decode(body)["x"])


class Rsgi:
    """The application for Granian."""

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        scope.headers.get("authorization")
        body = b"{}" if scope.method == "GET" else answer(await protocol())
        protocol.response_bytes(200, HEADERS, body)


rsgi = Rsgi()


async def asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    dict(scope["headers"]).get(b"authorization")
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    body = b"{}" if scope["method"] == "GET" else answer(body)
    headers = [*RAW_HEADERS, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class BareProtocol(asyncio.Protocol):
    """One connection, whose requests are answered in order."""

    def connection_made(self, transport: Any) -> None:
        import httptools

        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)

    def on_message_begin(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.headers.get(b"authorization")
        body = b"{}" if self.parser.get_method() == b"GET" else answer(self.body)
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(BareProtocol, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(int(sys.argv[1])))
