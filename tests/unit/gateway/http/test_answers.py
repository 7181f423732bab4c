"""The fast path and the general path of responses write the same bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from maas.gateway.http.auth import HostCheck
from maas.gateway.http.body_memory import BodyMemory
from maas.gateway.http.busy_poll import BusyPoll
from maas.gateway.http.connection import Connection
from maas.gateway.http.read_timeouts import ReadTimeouts
from maas.gateway.http.request import JSON, Request, RequestHead

Act = Callable[[Request], None]


class Transport(asyncio.Transport):
    """Records the bytes written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Server:
    """Answers at once with the path, except for paths that start with /later."""

    draining = False
    date_line = b"date: now\r\n\r\n"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.busy_poll = BusyPoll(loop, 0.0, lambda: False)
        self.later: list[Request] = []
        self.heads: dict[bytes, RequestHead] = {}
        self.body_memory = BodyMemory()
        self.read_timeouts = ReadTimeouts()

    def opened(self, connection: Connection) -> None: ...
    def closed(self, connection: Connection) -> None: ...
    def begin(self, head: RequestHead) -> int:
        return 100

    def remember_head(self, raw: bytes, head: RequestHead) -> None:
        self.heads[raw] = head

    def handle(self, request: Request) -> None:
        if request.target.startswith(b"/later"):
            self.later.append(request)
        else:
            request.respond(200, request.target)


@pytest.fixture
def server() -> Server:
    return Server(asyncio.new_event_loop())


def connect(server: Server) -> tuple[Connection, Transport]:
    connection, transport = Connection(server), Transport()
    connection.connection_made(transport)
    return connection, transport


def test_the_usual_head_equals_the_general_head(server: Server) -> None:
    connection, _ = connect(server)
    for body in (b"", b"{}", b"x" * 12345):
        usual = Request(connection, RequestHead("POST", b"/", {}), 0.0)
        general = Request(connection, RequestHead("POST", b"/", {}), 0.0)
        general.head.is_usual = False
        usual.respond(200, body)
        general.respond(200, body)
        assert usual.answer == general.answer
        assert usual.answer == general._answer_head(200, JSON, (), len(body)) + body


def test_single_and_pipelined_answers_are_written_alike(server: Server) -> None:
    def wire(path: bytes) -> bytes:
        return b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n" % path

    alone, in_row, remembered = [], [], []
    for path in (b"/a", b"/bb"):
        connection, transport = connect(server)
        connection.data_received(wire(path))  # a single request takes the fast path
        alone += transport.written
        connection.data_received(wire(path))  # its head has been remembered
        remembered += transport.written[1:]
    assert len(server.heads) == 2
    server.heads.clear()
    connection, transport = connect(server)
    connection.data_received(wire(b"/later") + wire(b"/a") + wire(b"/bb"))
    assert transport.written == []
    server.later[0].respond(200, b"")  # writes all three answers
    in_row = transport.written[1:]
    assert alone == in_row == remembered
    assert connection.is_idle


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_has_no_content_headers(server: Server, status: int) -> None:
    connection, transport = connect(server)
    connection.data_received(b"DELETE /later HTTP/1.1\r\nhost: a\r\n\r\n")
    server.later[0].respond(status, b"dropped")
    (answer,) = transport.written
    assert b"content-" not in answer
    assert answer.endswith(b"\r\n\r\n")


def test_a_response_replaces_a_stream_that_waits_for_earlier_answers(server: Server) -> None:
    """For example when its deadline passes."""
    connection, transport = connect(server)
    get = b"GET /later HTTP/1.1\r\nhost: a\r\n\r\n"
    connection.data_received(get + get)
    first, second = server.later

    async def act() -> None:
        streaming = asyncio.ensure_future(second.stream(200, JSON, (), None))
        await asyncio.sleep(0)
        streaming.cancel()
        await asyncio.wait({streaming})
        second.respond(504, b"late")
        first.respond(200, b"first")

    server.loop.run_until_complete(act())
    assert [answer[-5:] for answer in transport.written] == [b"first", b"\nlate"]
    server.loop.close()


def test_an_ipv6_host_is_accepted_in_brackets() -> None:
    check = HostCheck(("::2", "[::3]"))
    for host in (b"[::2]", b"[::2]:8000", b"[::3]:8000", b"[::1]"):
        check.check("GET", {b"host": host})
