"""What control gets to read for a request, and what the client hears when control is in trouble."""

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

from maas.gateway import proxy
from maas.gateway.http.auth import HostCheck, KeyRing
from maas.gateway.http.routes import Route, RouteAccess, RouteTable
from maas.gateway.http.server import HttpServer
from maas.gateway.proxy import ControlProxy
from tests.support.gateway import AUTH, CALLER, HOST, get, post, read_all, statuses, wait_for

JSON = b"Content-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


class Books:
    """Stands for the meter and the router, which are not asked for much here."""

    name = "a"

    def __init__(self) -> None:
        self.uses: list[tuple[Any, ...]] = []

    def used(self, key: Any, *what: Any, is_answer: bool) -> None:
        self.uses.append((*what, is_answer))

    def get(self, name: str) -> Books:
        return self


@dataclass
class Doors:
    """A gateway before a control that does as it is told."""

    port: int = 0
    mode: str = "answer"
    answer: bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    seen: list[bytes] = field(default_factory=list)
    books: Books = field(default_factory=Books)
    server: HttpServer | None = None

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "die":
            await reader.read(65536)
        elif self.mode == "hang":
            await asyncio.sleep(60)
        else:
            got = b""
            try:
                while data := await asyncio.wait_for(reader.read(65536), 0.05):
                    got += data
            except TimeoutError:
                pass
            self.seen.append(got)
            while self.mode == "wait":
                await asyncio.sleep(0.01)
            writer.write(self.answer)
        writer.close()

    async def serve(self, path: Path, ready: threading.Event, stop: threading.Event) -> None:
        control = await asyncio.start_unix_server(self.control, path)
        keys = KeyRing()
        keys.replace([CALLER])
        forward = ControlProxy(path, cast(Any, self.books), cast(Any, self.books))
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
def doors(tmp_path: Path) -> Iterator[Doors]:
    running, ready, stop = Doors(), threading.Event(), threading.Event()
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


def test_a_chunked_body_that_was_put_together_reaches_control_with_its_length(
    doors: Doors,
) -> None:
    inner = b"POST /api/v1/keys HTTP/1.1\r\nhost: control\r\nx-maas-scopes: admin\r\n\r\n"
    answer = doors.exchange(chunked(b"POST /explain/a HTTP/1.1\r\n", inner))
    assert statuses(answer) == [200]
    head, _, body = doors.seen[0].partition(b"\r\n\r\n")
    assert b"\r\ncontent-length: %d" % len(inner) in head
    assert b"transfer-encoding" not in head
    assert body == inner


def test_control_learns_by_when_the_caller_wants_its_explanation(doors: Doors) -> None:
    """And ends it there itself: who hangs up hears of nothing that could be metered."""
    forged = b"X-Request-Timeout-Ms: 2000\r\nX-MaaS-Deadline: 1e9\r\n"
    before = time.monotonic()
    assert statuses(doors.exchange(post(b"/explain/a", b"{}", JSON + forged))) == [200]
    told = [x for x in doors.seen[0].lower().split(b"\r\n") if x.startswith(b"x-maas-deadline:")]
    assert len(told) == 1
    assert before + 2 <= float(told[0].partition(b":")[2]) <= time.monotonic() + 2


def test_an_explanation_is_metered_as_control_counts_it(doors: Doors) -> None:
    spent = b"X-MaaS-Rows: 95\r\nX-MaaS-Compute-Us: 700\r\n"
    doors.answer = doors.answer.replace(b"content-length", spent + b"content-length")
    answer = doors.exchange(post(b"/explain/a", b"{}", JSON))
    assert statuses(answer) == [200] and b"maas-rows" not in answer.lower()
    assert doors.books.uses == [("a", "explain", 95, 700, True)]


def test_an_explanation_that_failed_is_metered_with_what_it_took(doors: Doors) -> None:
    spent = b"X-MaaS-Rows: 64\r\nX-MaaS-Compute-Us: 500\r\n"
    doors.answer = b"HTTP/1.1 504 Late\r\n" + spent + b"content-length: 2\r\n\r\n{}"
    assert statuses(doors.exchange(post(b"/explain/a", b"{}", JSON))) == [504]
    assert doors.books.uses == [("a", "explain", 64, 500, False)]


def test_an_explanation_whose_caller_left_is_metered_all_the_same(doors: Doors) -> None:
    spent = b"X-MaaS-Rows: 95\r\nX-MaaS-Compute-Us: 700\r\n"
    doors.answer = doors.answer.replace(b"content-length", spent + b"content-length")
    doors.mode = "wait"
    with doors.connect() as client:
        client.sendall(post(b"/explain/a", b"{}", JSON))
        wait_for(lambda: bool(doors.seen))
    wait_for(lambda: doors.server is not None and not doors.server._connections)
    doors.mode = "answer"
    wait_for(lambda: bool(doors.books.uses))
    assert doors.books.uses == [("a", "explain", 95, 700, True)]


def test_streamed_bodies_keep_their_framing(doors: Doors) -> None:
    doors.exchange(chunked(b"PUT /api/a HTTP/1.1\r\n", b"abc", b"de"))
    doors.exchange(post(b"/api/a", b"abcde").replace(b"POST", b"PUT"))
    doors.exchange(b"PUT /api/a HTTP/1.1\r\n" + HOST + AUTH + b"\r\n")
    doors.exchange(get(b"/api/a"))
    heads, bodies = zip(*(seen.split(b"\r\n\r\n", 1) for seen in doors.seen), strict=True)
    assert [b"chunked" in head for head in heads] == [True, False, False, False]
    assert [b"\r\ncontent-length: " in head for head in heads] == [False, True, True, False]
    assert bodies[0].endswith(b"0\r\n\r\n")
    assert bodies[1:] == (b"abcde", b"", b"")


def test_an_upload_while_control_dies_is_answered(doors: Doors) -> None:
    doors.mode = "die"
    size = 20 << 20
    with doors.connect() as client:
        head = b"PUT /api/f HTTP/1.1\r\n" + HOST + AUTH + b"Content-Length: %d\r\n\r\n" % size
        client.sendall(head)
        client.sendall(b"x" * size)
        answer = read_all(client)
    assert statuses(answer) == [503]
    assert b"connection: close" in answer
    wait_for(lambda: doors.server is not None and not doors.server._connections)


def test_a_control_that_hangs_is_given_up(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    doors.mode = "hang"
    monkeypatch.setattr(proxy, "ACCOUNT_SECONDS", 0.0)
    limit = b"X-Request-Timeout-Ms: 50\r\n"
    assert statuses(doors.exchange(get(b"/api/a", AUTH + limit))) == [504]
    assert statuses(doors.exchange(post(b"/explain/a", b"{}", JSON + limit))) == [504]
    assert doors.books.uses == [("a", "explain", 0, 0, False)]
    monkeypatch.setattr(proxy, "PROGRESS_SECONDS", 0.05)
    assert statuses(doors.exchange(get(b"/api/a"))) == [504]
    put = post(b"/api/a", b"x" * (4 << 20)).replace(b"POST", b"PUT")
    assert statuses(doors.exchange(put)) == [504]
    assert statuses(doors.exchange(get(b"/api/a", AUTH + b"X-Request-Timeout-Ms: x\r\n"))) == [400]


def test_a_client_that_takes_its_time_is_not_controls_fault(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "PROGRESS_SECONDS", 0.15)
    doors.answer = b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n"
    put = post(b"/api/a", b"abc").replace(b"POST", b"PUT")

    async def patient(
        self: Doors, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while not (await reader.read(65536)).endswith(b"abc"):
            pass
        writer.write(self.answer)
        writer.close()

    monkeypatch.setattr(Doors, "control", patient)
    with doors.connect() as client:
        client.sendall(put[:-3])
        assert read_all(client, 0.4) == b""
        client.sendall(b"abc")
        assert statuses(read_all(client, 1)) == [201]


def test_a_body_that_turns_out_wrong_gets_its_own_answer(doors: Doors) -> None:
    with doors.connect() as client:
        head = b"PUT /api/f HTTP/1.1\r\n" + HOST + AUTH + CHUNKED + b"\r\n"
        client.sendall(head + b"3\r\nabc\r\nnonsense\r\n")
        assert statuses(read_all(client, 1)) == [400]


def test_no_content_stays_without(doors: Doors) -> None:
    doors.answer = b"HTTP/1.1 204 No Content\r\n\r\n"
    answer = doors.exchange(get(b"/api/a"), 0.5)
    assert statuses(answer) == [204]
    assert b"content-" not in answer
