"""A gateway's HTTP server with simple routes, in a thread, on a loopback socket."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import uvloop

from maas.domain.keys import Key, Scope, hash_token
from maas.gateway.http.auth import HostCheck, KeyRing
from maas.gateway.http.request import Request
from maas.gateway.http.routes import Route, RouteAccess, RouteTable
from maas.gateway.http.server import HttpServer

TOKEN = "maas_k1_secret"
CALLER = Key("k1", "caller", (Scope.CALL,), hash_token(TOKEN))

AUTH = f"Authorization: Bearer {TOKEN}\r\n".encode()
HOST = b"Host: localhost\r\n"


def post(path: bytes, body: bytes, extra: bytes = b"") -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return b"POST %b HTTP/1.1\r\n%b%b%b%b\r\n%b" % (path, HOST, AUTH, length, extra, body)


def get(path: bytes, extra: bytes = AUTH) -> bytes:
    return b"GET %b HTTP/1.1\r\n%b%b\r\n" % (path, HOST, extra)


def statuses(answer: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d\d\d) ", answer)]


@dataclass
class RunningGateway:
    """The server, its event loop, and what its handlers received."""

    port: int
    loop: asyncio.AbstractEventLoop
    server: HttpServer
    keys: KeyRing
    disconnects: list[str] = field(default_factory=list)
    pending: list[Request] = field(default_factory=list)
    """Requests to `/hold`, which the test answers."""

    def call(self, function: Callable[[], object]) -> None:
        """Run `function` in the server's loop and wait for it."""
        done = threading.Event()

        def run() -> None:
            function()
            done.set()

        self.loop.call_soon_threadsafe(run)
        if not done.wait(5):
            raise TimeoutError

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=5)

    def exchange(self, data: bytes) -> bytes:
        """Send `data` and read until the server closes the connection or is silent for a moment.

        The client's side of the connection stays open.
        """
        with self.connect() as client:
            client.sendall(data)
            return read_all(client)


def read_all(client: socket.socket, silence: float = 0.15) -> bytes:
    client.settimeout(silence)
    out = b""
    while True:
        try:
            data = client.recv(65536)
        except (TimeoutError, ConnectionResetError):
            return out
        if not data:
            return out
        out += data


def _echo(request: Request) -> None:
    request.respond(200, bytes(request.body) or b"nothing", b"text/plain")


def _fail(request: Request) -> None:
    raise RuntimeError("a secret detail")


def _route_table(running: list[RunningGateway]) -> RouteTable:
    """The routes of the server; `running` has it once it runs."""
    tasks: list[asyncio.Future[None]] = []

    def hold(request: Request) -> None:
        """Keep the request for the test to answer."""
        running[0].pending.append(request)
        request.on_disconnect = lambda: running[0].disconnects.append(request.target.decode())

    def stream(request: Request) -> None:
        async def answer() -> None:
            received = b""
            if request.body_stream is not None:
                async for piece in request.body_stream.pieces():
                    received += piece
            body = await request.stream(200, b"text/plain", (), None)
            await body.send(b"got ")
            await body.send(b"%d bytes" % len(received))
            body.end()

        tasks.append(asyncio.ensure_future(answer()))

    return RouteTable(
        [
            Route("GET", "/livez", RouteAccess.PUBLIC, _echo, while_draining=True),
            Route("POST", "/echo", Scope.CALL, _echo, 1000, content_types=()),
            Route("POST", "/json", Scope.CALL, _echo, 1000),
            Route("GET", "/hold/{name}", Scope.CALL, hold),
            Route("GET", "/fail", Scope.CALL, _fail),
            Route("POST", "/stream", Scope.CALL, stream, 1 << 20, (), streams_body=True),
            Route("GET", "/admin", Scope.ADMIN, _echo),
            Route("GET", "/rest/{*}", Scope.CALL, _echo),
        ]
    )


async def _serve(ready: threading.Event, box: list[RunningGateway], stop: threading.Event) -> None:
    keys = KeyRing()
    keys.replace([CALLER])
    running: list[RunningGateway] = []

    server = HttpServer(_route_table(running), keys, HostCheck(("maas.example",)))
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    await server.listen(listening, None)
    running.append(RunningGateway(port, asyncio.get_running_loop(), server, keys))
    box.append(running[0])
    ready.set()
    while not stop.is_set():
        await asyncio.sleep(0.02)
    await server.drain(0.0)


@pytest.fixture
def gateway() -> Iterator[RunningGateway]:
    ready, stop = threading.Event(), threading.Event()
    box: list[RunningGateway] = []
    thread = threading.Thread(target=lambda: uvloop.run(_serve(ready, box, stop)))
    thread.start()
    if not ready.wait(5):
        raise TimeoutError
    yield box[0]
    stop.set()
    thread.join()


def wait_for(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until `condition` is true. Raises AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s")
        time.sleep(0.005)
