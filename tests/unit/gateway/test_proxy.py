"""What control receives for a request, and what the client receives when control fails."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from maas.gateway.http.auth import HostCheck, KeyRing
from maas.gateway.http.routes import Route, RouteAccess, RouteTable
from maas.gateway.http.server import HttpServer
from maas.gateway.metering import RelayedUsage
from maas.gateway.proxy import ControlProxy, ProxyTimeouts
from tests.support.gateway import AUTH, CALLER, HOST, get, post, read_all, statuses, wait_for

JSON = b"Content-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


class FakeMeter:
    """The meter and the router of the proxy: records usage; has one deployment, `a`."""

    name = "a"

    def __init__(self) -> None:
        self.usages: list[tuple[Any, ...]] = []

    def relayed(self, key: Any, deployment: str, operation: str, usage: RelayedUsage) -> None:
        values = (usage.rows, usage.compute_us, usage.is_success)
        self.usages.append((deployment, operation, *values))

    def get(self, name: str) -> FakeMeter:
        return self


@dataclass
class ProxyServer:
    """A gateway in front of a control with a scripted answer."""

    port: int = 0
    mode: str = "answer"
    answer: bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    requests: list[bytes] = field(default_factory=list)
    """Requests as control received them."""
    meter: FakeMeter = field(default_factory=FakeMeter)
    server: HttpServer | None = None
    proxy: ControlProxy | None = None

    def set_timeouts(self, timeouts: ProxyTimeouts) -> None:
        assert self.proxy is not None
        self.proxy._timeouts = timeouts

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "die":
            await reader.read(65536)
        elif self.mode == "hang":
            await asyncio.sleep(60)
        else:
            data = b""
            try:
                while chunk := await asyncio.wait_for(reader.read(65536), 0.05):
                    data += chunk
            except TimeoutError:
                pass
            self.requests.append(data)
            while self.mode == "wait":
                await asyncio.sleep(0.01)
            writer.write(self.answer)
        writer.close()

    async def serve(self, path: Path, ready: threading.Event, stop: threading.Event) -> None:
        control = await asyncio.start_unix_server(self.control, path)
        keys = KeyRing()
        keys.replace([CALLER])
        meter = cast(Any, self.meter)
        self.proxy = ControlProxy(path, meter, meter)
        forward = self.proxy
        upload = {"max_body": 1 << 30, "content_types": (), "streams_body": True}
        any_key = RouteAccess.ANY_KEY
        routes = [
            Route("GET", "/api/{*}", any_key, forward.forward),
            Route("PUT", "/api/{*}", any_key, forward.forward, **cast(Any, upload)),
            Route("POST", "/explain/{deployment}", any_key, forward.explain, 1 << 20),
        ]
        self.server = HttpServer(RouteTable(routes), keys, HostCheck(()))
        listening = socket.create_server(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        await self.server.listen(listening, None)
        ready.set()
        while not stop.is_set():
            await asyncio.sleep(0.02)
        control.close()
        await self.server.drain(0.0)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=5)

    def exchange(self, data: bytes, silence: float = 0.4) -> bytes:
        with self.connect() as client:
            client.sendall(data)
            return read_all(client, silence)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[ProxyServer]:
    running, ready, stop = ProxyServer(), threading.Event(), threading.Event()
    work = running.serve(tmp_path / "control.sock", ready, stop)
    thread = threading.Thread(target=lambda: uvloop.run(work))
    thread.start()
    if not ready.wait(5):
        raise TimeoutError
    yield running
    stop.set()
    thread.join()


def chunked(head: bytes, *pieces: bytes) -> bytes:
    framed = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b"")]
    return head + HOST + AUTH + JSON + CHUNKED + b"\r\n" + b"".join(framed)


def test_a_chunked_body_that_was_joined_reaches_control_with_its_length(
    gateway: ProxyServer,
) -> None:
    inner = b"POST /api/v1/keys HTTP/1.1\r\nhost: control\r\nx-maas-scopes: admin\r\n\r\n"
    answer = gateway.exchange(chunked(b"POST /explain/a HTTP/1.1\r\n", inner))
    assert statuses(answer) == [200]
    head, _, body = gateway.requests[0].partition(b"\r\n\r\n")
    assert b"\r\ncontent-length: %d" % len(inner) in head
    assert b"transfer-encoding" not in head
    assert body == inner


def test_control_receives_the_deadline_of_an_explanation(gateway: ProxyServer) -> None:
    """Control ends the explanation itself and reports its usage, which a disconnect would lose."""
    forged = b"X-Request-Timeout-Ms: 2000\r\nX-MaaS-Deadline: 1e9\r\n"
    before = time.monotonic()
    assert statuses(gateway.exchange(post(b"/explain/a", b"{}", JSON + forged))) == [200]
    deadlines = [
        x for x in gateway.requests[0].lower().split(b"\r\n") if x.startswith(b"x-maas-deadline:")
    ]
    assert len(deadlines) == 1
    assert before + 2 <= float(deadlines[0].partition(b":")[2]) <= time.monotonic() + 2


def test_an_explanation_is_metered_as_control_reports_it(gateway: ProxyServer) -> None:
    usage = b"X-MaaS-Rows: 95\r\nX-MaaS-Compute-Us: 700\r\n"
    gateway.answer = gateway.answer.replace(b"content-length", usage + b"content-length")
    answer = gateway.exchange(post(b"/explain/a", b"{}", JSON))
    assert statuses(answer) == [200] and b"maas-rows" not in answer.lower()
    assert gateway.meter.usages == [("a", "explain", 95, 700, True)]


def test_a_failed_explanation_is_metered_with_its_usage(gateway: ProxyServer) -> None:
    usage = b"X-MaaS-Rows: 64\r\nX-MaaS-Compute-Us: 500\r\n"
    gateway.answer = b"HTTP/1.1 504 Late\r\n" + usage + b"content-length: 2\r\n\r\n{}"
    assert statuses(gateway.exchange(post(b"/explain/a", b"{}", JSON))) == [504]
    assert gateway.meter.usages == [("a", "explain", 64, 500, False)]


def test_an_explanation_is_metered_after_its_client_disconnected(gateway: ProxyServer) -> None:
    usage = b"X-MaaS-Rows: 95\r\nX-MaaS-Compute-Us: 700\r\n"
    gateway.answer = gateway.answer.replace(b"content-length", usage + b"content-length")
    gateway.mode = "wait"
    with gateway.connect() as client:
        client.sendall(post(b"/explain/a", b"{}", JSON))
        wait_for(lambda: bool(gateway.requests))
    wait_for(lambda: gateway.server is not None and not gateway.server._connections)
    gateway.mode = "answer"
    wait_for(lambda: bool(gateway.meter.usages))
    assert gateway.meter.usages == [("a", "explain", 95, 700, True)]


def test_streamed_bodies_keep_their_framing(gateway: ProxyServer) -> None:
    gateway.exchange(chunked(b"PUT /api/a HTTP/1.1\r\n", b"abc", b"de"))
    gateway.exchange(post(b"/api/a", b"abcde").replace(b"POST", b"PUT"))
    gateway.exchange(b"PUT /api/a HTTP/1.1\r\n" + HOST + AUTH + b"\r\n")
    gateway.exchange(get(b"/api/a"))
    heads, bodies = zip(
        *(request.split(b"\r\n\r\n", 1) for request in gateway.requests), strict=True
    )
    assert [b"chunked" in head for head in heads] == [True, False, False, False]
    assert [b"\r\ncontent-length: " in head for head in heads] == [False, True, True, False]
    assert bodies[0].endswith(b"0\r\n\r\n")
    assert bodies[1:] == (b"abcde", b"", b"")


def test_an_upload_is_answered_if_control_crashes(gateway: ProxyServer) -> None:
    gateway.mode = "die"
    size = 20 << 20
    with gateway.connect() as client:
        head = b"PUT /api/f HTTP/1.1\r\n" + HOST + AUTH + b"Content-Length: %d\r\n\r\n" % size
        client.sendall(head)
        client.sendall(b"x" * size)
        answer = read_all(client)
    assert statuses(answer) == [503]
    assert b"connection: close" in answer
    wait_for(lambda: gateway.server is not None and not gateway.server._connections)


def test_a_hanging_control_times_out(gateway: ProxyServer) -> None:
    gateway.mode = "hang"
    gateway.set_timeouts(ProxyTimeouts(usage_grace_s=0.0))
    limit = b"X-Request-Timeout-Ms: 50\r\n"
    assert statuses(gateway.exchange(get(b"/api/a", AUTH + limit))) == [504]
    assert statuses(gateway.exchange(post(b"/explain/a", b"{}", JSON + limit))) == [504]
    assert gateway.meter.usages == [("a", "explain", 0, 0, False)]
    gateway.set_timeouts(ProxyTimeouts(progress_s=0.05, usage_grace_s=0.0))
    assert statuses(gateway.exchange(get(b"/api/a"))) == [504]
    put = post(b"/api/a", b"x" * (4 << 20)).replace(b"POST", b"PUT")
    assert statuses(gateway.exchange(put)) == [504]
    assert statuses(gateway.exchange(get(b"/api/a", AUTH + b"X-Request-Timeout-Ms: x\r\n"))) == [
        400
    ]


def test_a_slow_client_does_not_time_out_control(
    gateway: ProxyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.set_timeouts(ProxyTimeouts(progress_s=0.15))
    gateway.answer = b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n"
    put = post(b"/api/a", b"abc").replace(b"POST", b"PUT")

    async def read_all_then_answer(
        self: ProxyServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while not (await reader.read(65536)).endswith(b"abc"):
            pass
        writer.write(self.answer)
        writer.close()

    monkeypatch.setattr(ProxyServer, "control", read_all_then_answer)
    with gateway.connect() as client:
        client.sendall(put[:-3])
        assert read_all(client, 0.4) == b""
        client.sendall(b"abc")
        assert statuses(read_all(client, 1)) == [201]


def test_a_malformed_body_is_answered_with_its_error(gateway: ProxyServer) -> None:
    with gateway.connect() as client:
        head = b"PUT /api/f HTTP/1.1\r\n" + HOST + AUTH + CHUNKED + b"\r\n"
        client.sendall(head + b"3\r\nabc\r\nnonsense\r\n")
        assert statuses(read_all(client, 1)) == [400]


def test_a_response_without_content_has_no_content_headers(gateway: ProxyServer) -> None:
    gateway.answer = b"HTTP/1.1 204 No Content\r\n\r\n"
    answer = gateway.exchange(get(b"/api/a"), 0.5)
    assert statuses(answer) == [204]
    assert b"content-" not in answer
