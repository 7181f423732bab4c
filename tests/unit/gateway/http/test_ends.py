"""How requests and connections end: refusals, slow clients, last answers, too many clients."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import threading
import time
from functools import partial

import pytest

from maas.gateway.http import read_timeouts
from maas.gateway.http.read_timeouts import ReadTimeouts
from maas.gateway.http.server import MAX_CONNECTIONS, max_connections
from tests.support.gateway import (
    AUTH,
    HOST,
    TOKEN,
    RunningGateway,
    get,
    post,
    read_all,
    statuses,
    wait_for,
)

CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


def chunked_post(path: bytes, rest: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\n%b%b%b%b" % (path, HOST, AUTH, CHUNKED, rest)


def test_a_cached_head_is_used_only_if_it_is_complete(gateway: RunningGateway) -> None:
    whole = get(b"/rest/a", AUTH + b"X-Request-ID: 1\r\n")
    gateway.exchange(whole)
    with gateway.connect() as client:
        client.sendall(whole[:-4])
        assert read_all(client, 0.1) == b""
        client.sendall(b"23\r\n\r\n")
        assert re.findall(rb"x-request-id: (\S+)", read_all(client)) == [b"123"]


def test_nothing_is_handled_after_the_last_request(gateway: RunningGateway) -> None:
    cached = get(b"/hold/k")
    with gateway.connect() as client:
        client.sendall(cached)
        wait_for(lambda: gateway.pending)
        gateway.call(lambda: gateway.pending[0].respond(200, b"x"))
        read_all(client, 0.05)
        client.sendall(get(b"/hold/z", AUTH + b"Connection: close\r\n"))
        wait_for(lambda: len(gateway.pending) == 2)
        client.sendall(cached)
        time.sleep(0.05)
        gateway.call(lambda: gateway.pending[1].respond(200, b"last"))
        assert read_all(client).endswith(b"last")
        assert len(gateway.pending) == 2


def test_a_request_after_a_refused_body_in_the_same_segment_is_not_handled(
    gateway: RunningGateway,
) -> None:
    refused = b"POST /echo HTTP/1.1\r\n" + HOST + CHUNKED + b"1\r\nx\r\n0\r\n\r\n"
    answer = gateway.exchange(refused + get(b"/hold/a") + get(b"/livez"))
    assert statuses(answer) == [401]
    assert gateway.pending == []


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/echo", {"Authorization": f"Bearer {TOKEN}"}, 413),
        ("/json", {"Authorization": f"Bearer {TOKEN}", "Content-Type": "text/plain"}, 415),
        ("/echo", {}, 401),
    ],
)
def test_a_refusal_reaches_a_client_that_sends_a_large_body(
    gateway: RunningGateway, path: str, headers: dict[str, str], status: int
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    connection.request("POST", path, b"x" * (100 << 20), headers)
    assert connection.getresponse().status == status
    connection.close()


def test_a_client_that_sends_too_much_after_the_last_answer_is_cut_off(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_timeouts, "LINGER_BYTES", 1 << 20)
    with gateway.connect() as client:
        client.sendall(b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999\r\n\r\n")
        with pytest.raises(ConnectionError):
            for _ in range(99):
                client.sendall(b"x" * 1_000_000)
    wait_for(lambda: not gateway.server._connections)


def test_a_silent_client_is_closed_soon_after_the_last_answer(gateway: RunningGateway) -> None:
    gateway.server.read_timeouts = ReadTimeouts(linger_silence_s=0.1)
    with gateway.connect() as client:
        client.sendall(b"nonsense\r\n\r\n")
        assert statuses(read_all(client)) == [400]
        wait_for(lambda: not gateway.server._connections)


def test_a_dropped_slow_body_gets_no_second_answer(gateway: RunningGateway) -> None:
    gateway.server.read_timeouts = ReadTimeouts(body_grace_s=0.1, linger_silence_s=0.1)
    with gateway.connect() as client:
        client.sendall(b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 5000\r\n\r\n")
        assert statuses(read_all(client, 3)) == [401]
        wait_for(lambda: not gateway.server._connections)


def test_a_dropped_body_that_arrives_fast_keeps_the_connection_open(
    gateway: RunningGateway,
) -> None:
    gateway.server.read_timeouts = ReadTimeouts(body_grace_s=0.0)
    with gateway.connect() as client:
        client.sendall(b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 50000\r\n\r\n")
        client.sendall(b"x" * 49_999)
        assert statuses(read_all(client, 1.3)) == [401]
        client.sendall(b"x" + post(b"/echo", b"ok"))
        assert statuses(read_all(client)) == [200]


# -- clients that do not read ---------------------------------------------------------------


def test_a_client_that_does_not_read_answers_is_not_read_from(gateway: RunningGateway) -> None:
    with gateway.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(0.3)
        requests = get(b"/livez", b"X-Request-ID: " + b"a" * 100 + b"\r\n") * 500
        with pytest.raises(TimeoutError):
            for _ in range(600):  # 100 MB
                client.sendall(requests)
        (connection,) = gateway.server._connections
        transport = connection._transport
        assert transport is not None
        assert transport.get_write_buffer_size() < 4 << 20


def test_a_slow_reader_is_served_while_it_reads(gateway: RunningGateway) -> None:
    gateway.server.read_timeouts = ReadTimeouts(stalled_write_s=0.5)
    size = 32 << 20
    with gateway.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.sendall(get(b"/hold/a"))
        wait_for(lambda: gateway.pending)
        gateway.call(lambda: gateway.pending[0].respond(200, b"x" * size))
        received, began = 0, time.monotonic()
        while received < size:
            data = client.recv(1 << 18)
            assert data, f"cut off after {received} bytes"
            received += len(data)
            time.sleep(max(0.0, began + 3.0 * received / size - time.monotonic()))


def test_a_reader_that_stalls_is_cut_off(gateway: RunningGateway) -> None:
    gateway.server.read_timeouts = ReadTimeouts(stalled_write_s=0.5)
    with gateway.connect() as client:
        client.sendall(get(b"/hold/a"))
        wait_for(lambda: gateway.pending)
        gateway.call(lambda: gateway.pending[0].respond(200, b"x" * (16 << 20)))
        wait_for(lambda: not gateway.server._connections)


# -- bodies ---------------------------------------------------------------------------------


def test_trailers_are_not_headers_and_have_a_limit(gateway: RunningGateway) -> None:
    rest = b"3\r\nabc\r\n0\r\nX-Request-ID: late\r\nAuthorization: Bearer x\r\n\r\n"
    answer = gateway.exchange(chunked_post(b"/echo", rest))
    assert statuses(answer) == [200]
    assert b"late" not in answer
    for long in (b"X: " + b"a" * 20_000 + b"\r\nY: " + b"a" * 20_000, b"X: " + b"a" * 300_000):
        answer = gateway.exchange(chunked_post(b"/echo", b"0\r\n" + long + b"\r\n\r\n"))
        assert statuses(answer) == [431]


def test_chunk_extensions_have_a_limit(gateway: RunningGateway) -> None:
    with gateway.connect() as client:
        client.sendall(chunked_post(b"/echo", b"3;x="))
        for _ in range(5):
            client.sendall(b"a" * 10_000)
            time.sleep(0.01)
        assert statuses(read_all(client)) == [431]


def test_100_continue_is_sent_when_it_is_the_turn_of_the_request(gateway: RunningGateway) -> None:
    with gateway.connect() as client:
        whole = post(b"/echo", b"body", b"Expect: 100-continue\r\n")
        client.sendall(get(b"/hold/a") + whole[:-4])
        assert read_all(client, 0.1) == b""
        gateway.call(lambda: gateway.pending[0].respond(200, b"first"))
        assert read_all(client, 0.1).endswith(b"firstHTTP/1.1 100 Continue\r\n\r\n")
        client.sendall(b"body")
        assert read_all(client).endswith(b"\r\n\r\nbody")


def test_http_1_0_gets_no_100_continue(gateway: RunningGateway) -> None:
    whole = post(b"/echo", b"body", b"Expect: 100-continue\r\n").replace(b"HTTP/1.1", b"HTTP/1.0")
    assert statuses(gateway.exchange(whole)) == [200]


def test_http_1_0_gets_streams_without_chunks_and_keep_alive_on_request(
    gateway: RunningGateway,
) -> None:
    keep_alive = b"Connection: keep-alive\r\n"
    stream = post(b"/stream", b"xyz", keep_alive).replace(b"HTTP/1.1", b"HTTP/1.0")
    with gateway.connect() as client:
        for _ in range(2):
            client.sendall(b"GET /livez HTTP/1.0\r\n" + HOST + keep_alive + b"\r\n")
            assert b"connection: keep-alive\r\n" in client.recv(65536)
        client.sendall(stream)
        client.settimeout(3)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert b"transfer-encoding" not in answer
        assert b"connection: close\r\n" in answer
        assert answer.endswith(b"\r\n\r\ngot 3 bytes")


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"http://localhost/livez", 200),
        (b"HTTP://Localhost:80/rest/a?b=http://c", 200),
        (b"http://localhost", 404),
        (b"http://evil.example/livez", 400),
        (b"http://localhost@evil.example/livez", 400),
        (b"http:///livez", 400),
        (b"ftp://localhost/livez", 404),
    ],
)
def test_a_complete_url_is_matched_by_its_path(
    gateway: RunningGateway, target: bytes, status: int
) -> None:
    assert statuses(gateway.exchange(get(target))) == [status]


# -- many clients ---------------------------------------------------------------------------


def test_the_limit_on_connections_is_below_that_on_files() -> None:
    assert 0 < max_connections() <= MAX_CONNECTIONS


def test_the_longest_idle_connection_makes_room_and_busy_ones_do_not(
    gateway: RunningGateway,
) -> None:
    gateway.server._max_connections = 3
    clients = []
    for number in range(3):
        clients.append(gateway.connect())
        clients[-1].sendall(get(b"/livez", b""))
        assert clients[-1].recv(65536)
        time.sleep(0.01 * (number + 1))
    clients[0].sendall(get(b"/livez", b""))  # now the second one has been idle longest
    assert clients[0].recv(65536)
    clients.append(gateway.connect())
    clients[3].sendall(get(b"/hold/d"))
    assert clients[1].recv(10) == b""
    for client in (clients[0], clients[2]):
        client.sendall(get(b"/hold/x"))
    wait_for(lambda: len(gateway.pending) == 3)
    with gateway.connect() as refused, contextlib.suppress(ConnectionResetError):
        assert refused.recv(10) == b""
    for request in list(gateway.pending):
        gateway.call(partial(request.respond, 200, b"ok"))
    for client in (clients[0], clients[2], clients[3]):
        assert client.recv(65536).endswith(b"ok")
        client.close()


def test_idle_time_counts_from_the_answer(gateway: RunningGateway) -> None:
    with gateway.connect() as client:
        client.sendall(get(b"/hold/a"))
        wait_for(lambda: gateway.pending)
        time.sleep(0.2)
        (connection,) = gateway.server._connections
        began = time.monotonic()
        gateway.call(lambda: gateway.pending[0].respond(200, b"x"))
        assert connection.idle_since >= began


def test_an_upload_that_no_handler_reads_is_dropped(gateway: RunningGateway) -> None:
    """The request is answered before its body ends."""
    with gateway.connect() as client:
        called = threading.Event()

        def refuse(request: object) -> None:
            called.set()
            raise RuntimeError("before the body was read")

        for route in gateway.server._routes.routes:
            if route.streams_body:
                object.__setattr__(route, "handler", refuse)
        client.sendall(post(b"/stream", b"x" * 500_000))
        answer = read_all(client, 3)
        assert called.is_set()
        assert statuses(answer) == [500]
        assert b"connection: close" in answer
    with gateway.connect() as client:
        small = post(b"/stream", b"x" * 60_000)
        client.sendall(small[:300])
        assert statuses(client.recv(65536)) == [500]
        client.sendall(small[300:] + post(b"/echo", b"again"))
        assert client.recv(65536).endswith(b"again")
