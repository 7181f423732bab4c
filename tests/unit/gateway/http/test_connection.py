"""HTTP/1.1 as bytes on a socket: the order of answers, limits, and malformed requests."""

from __future__ import annotations

import re
import time

import pytest

from maas.gateway.http import body_memory
from maas.gateway.http.read_timeouts import ReadTimeouts
from tests.support.gateway import AUTH, HOST, TOKEN, RunningGateway, get, post, read_all, statuses
from tests.support.servers.maas import wait_until

UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"


def test_a_request_is_answered_and_the_connection_stays_open(gateway: RunningGateway) -> None:
    with gateway.connect() as client:
        for body in (b"one", b"two", b"three", b"two"):
            client.sendall(post(b"/echo", body))
            answer = client.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.endswith(b"\r\n\r\n" + body)
            assert b"date: " in answer


def test_a_request_in_single_bytes_is_the_same_request(gateway: RunningGateway) -> None:
    with gateway.connect() as client:
        for byte in post(b"/echo", b"slow"):
            client.sendall(bytes([byte]))
        assert client.recv(65536).endswith(b"\r\n\r\nslow")


def test_pipelined_requests_are_answered_in_order(gateway: RunningGateway) -> None:
    bodies = [b"%d" % n for n in range(40)]
    answer = gateway.exchange(b"".join(post(b"/echo", body) for body in bodies))
    assert re.findall(rb"\r\n\r\n(\d+)(?=HTTP|$)", answer) == bodies


def test_a_later_answer_waits_for_the_earlier_one(gateway: RunningGateway) -> None:
    with gateway.connect() as client:
        client.sendall(get(b"/hold/a") + post(b"/echo", b"second") + get(b"/hold/b"))
        assert read_all(client, 0.1) == b""
        gateway.call(lambda: gateway.pending[1].respond(200, b"third"))
        gateway.call(lambda: gateway.pending[0].respond(200, b"first"))
        answer = read_all(client)
        assert re.findall(rb"\r\n\r\n([a-z]+)(?=HTTP|$)", answer) == [b"first", b"second", b"third"]


def test_a_streamed_answer_keeps_its_place_between_others(gateway: RunningGateway) -> None:
    answer = gateway.exchange(
        post(b"/echo", b"a") + post(b"/stream", b"x" * 5000) + post(b"/echo", b"z")
    )
    assert statuses(answer) == [200, 200, 200]
    assert answer.index(b"got ") > answer.index(b"\r\n\r\na")
    assert b"a\r\n5000 bytes\r\n0\r\n\r\n" in answer
    assert answer.endswith(b"\r\n\r\nz")


def test_a_chunked_body_is_joined(gateway: RunningGateway) -> None:
    head = b"POST /echo HTTP/1.1\r\n" + HOST + AUTH + b"Transfer-Encoding: chunked\r\n\r\n"
    assert gateway.exchange(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").endswith(b"\r\n\r\nabcde")


def test_a_client_that_expects_100_continue_gets_it(gateway: RunningGateway) -> None:
    with gateway.connect() as client:
        whole = post(b"/echo", b"body", b"Expect: 100-continue\r\n")
        client.sendall(whole[:-4])
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"body")
        assert client.recv(65536).endswith(b"\r\n\r\nbody")


def test_a_client_without_a_key_does_not_get_100_continue(gateway: RunningGateway) -> None:
    with gateway.connect() as client:
        client.sendall(
            b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 500000\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        answer = read_all(client)
        assert statuses(answer) == [401]
        assert b"connection: close" in answer


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: evil.example\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: localhost.evil.example\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: a/?x=\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: localhost@evil\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: MAAS.example:8000\r\n\r\n", 200),
        (b"GET /livez HTTP/1.1\r\n Host: localhost\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\n" + HOST + AUTH + b"Content-Length: 5\r\n"
         b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\n" + HOST + AUTH + b"Transfer-Encoding: xchunked\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\n" + HOST + AUTH + b"Content-Length: -1\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\n" + HOST + AUTH + b"Content-Length: 1\r\n"
         b"Content-Length: 2\r\n\r\nx", 400),
        (b"POST /echo HTTP/1.1\r\n" + HOST + AUTH + b"Content-Length: 99999999999999999999\r\n\r\n",
         400),
        (b"GET /livez HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /livez HTTP/1.1\r\n" + HOST + b"".join(b"X%d: a\r\n" % n for n in range(200))
         + b"\r\n", 431),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 431),
        (get(b"/livez/../admin"), 404),
        (get(b"/rest/..%2f..%2fetc"), 200),
        (get(b"/rest/../admin"), 404),
        (get(b"//admin"), 404),
        (get(b"/hold/a/b"), 404),
        (get(b"/admin"), 403),
        (get(b"/nothing", b""), 401),
        (get(b"/nothing"), 404),
        (get(b"/echo", b""), 401),
        (get(b"/echo"), 405),
        (b"DELETE /livez HTTP/1.1\r\n" + HOST + b"\r\n", 401),
        (get(b"/hold/a", b"Authorization: Basic bWFhcw==\r\n"), 401),
        (get(b"/hold/a", b"Authorization: Bearer ' OR 1=1 --\r\n"), 401),
        (get(b"/hold/a", b"Authorization: Bearer \xff\xfe\r\n"), 401),
        (get(b"/hold/a", AUTH + AUTH), 400),
        (post(b"/echo", b"x" * 1001), 413),
        (post(b"/json", b"{}"), 415),
        (post(b"/json", b"{}", b"Content-Type: text/plain\r\n"), 415),
        (post(b"/json", b"{}", b"Content-Type: application/json; charset=utf-8\r\n"), 200),
        (post(b"/json", b"{}", b"Content-Type: application/json\r\nOrigin: http://evil\r\n"), 403),
        (post(b"/json", b"{}", b"Content-Type: application/json\r\n"
              b"Origin: http://localhost:8000\r\n"), 200),
        (post(b"/json", b"{}", b"Content-Type: application/json\r\nOrigin: null\r\n"), 403),
        (get(b"/fail"), 500),
        (get(b"/livez", b"Connection: Upgrade\r\nUpgrade: websocket\r\n"), 200),
        (post(b"/echo", b"x" * 1001, UPGRADE), 413),
        (b"HEAD /livez HTTP/1.1\r\n" + HOST + b"\r\n", 200),
        (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 401),
        (b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n", 401),
    ],
)  # fmt: skip
def test_a_request_gets_one_answer_with_the_expected_status(
    gateway: RunningGateway, request_bytes: bytes, status: int
) -> None:
    answer = gateway.exchange(request_bytes)
    assert statuses(answer) == [status], answer
    assert b"secret" not in answer
    # The server still answers others.
    assert statuses(gateway.exchange(get(b"/livez", b""))) == [200]


@pytest.mark.parametrize("split", [0, 60, 150, -2])
def test_a_request_to_upgrade_the_protocol_is_ignored(gateway: RunningGateway, split: int) -> None:
    """Java's HttpClient sends one with every unencrypted request, also with a body."""
    chunked = b"POST /echo HTTP/1.1\r\n" + HOST + AUTH + UPGRADE
    chunked += b"Transfer-Encoding: chunked\r\n\r\n5\r\nworld\r\n0\r\n\r\n"
    first = post(b"/echo", b"hello", UPGRADE)
    with gateway.connect() as client:
        client.sendall(first[:split])
        time.sleep(0.05)
        client.sendall(first[split:] + chunked + get(b"/livez", UPGRADE) + post(b"/echo", b"again"))
        answer = read_all(client)
    assert statuses(answer) == [200] * 4, answer
    assert [word in answer for word in (b"hello", b"world", b"again")] == [True] * 3, answer
    assert b"connection: close" not in answer


def test_a_key_is_accepted_in_x_api_key(gateway: RunningGateway) -> None:
    answer = gateway.exchange(get(b"/rest/a", f"X-API-Key: {TOKEN}\r\n".encode()))
    assert statuses(answer) == [200]


def test_a_chunked_body_over_the_limit_is_refused_while_it_arrives(gateway: RunningGateway) -> None:
    head = b"POST /echo HTTP/1.1\r\n" + HOST + AUTH + b"Transfer-Encoding: chunked\r\n\r\n"
    answer = gateway.exchange(head + b"1ff\r\n" + b"a" * 511 + b"\r\n" + b"1ff\r\n" + b"a" * 511)
    assert statuses(answer) == [413]
    assert b"connection: close" in answer


def test_a_refused_body_is_dropped_and_the_connection_stays_open(gateway: RunningGateway) -> None:
    unknown = b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nabcde"
    assert statuses(gateway.exchange(unknown + post(b"/echo", b"ok"))) == [401, 200]


def test_a_cached_head_is_checked_again_after_keys_change(gateway: RunningGateway) -> None:
    with gateway.connect() as client:
        for _ in range(3):
            client.sendall(post(b"/echo", b"hello"))
            assert statuses(client.recv(65536)) == [200]

        def revoke() -> None:
            gateway.keys.replace([])
            gateway.server.forget_heads()

        gateway.call(revoke)
        client.sendall(post(b"/echo", b"hello"))
        assert statuses(client.recv(65536)) == [401]


def test_a_cached_head_with_a_partial_or_longer_read_is_parsed(gateway: RunningGateway) -> None:
    whole = post(b"/echo", b"12345")
    with gateway.connect() as client:
        client.sendall(whole)
        client.recv(65536)
        client.sendall(whole + whole)  # two in one read
        assert len(re.findall(rb"\r\n\r\n12345", read_all(client))) == 2
        client.sendall(whole[:-2])  # and one in two reads
        time.sleep(0.05)
        client.sendall(whole[-2:])
        assert read_all(client).endswith(b"\r\n\r\n12345")


def test_heads_are_not_shared_between_different_keys(gateway: RunningGateway) -> None:
    whole = post(b"/echo", b"12345")
    gateway.exchange(whole)
    assert statuses(gateway.exchange(whole.replace(TOKEN.encode(), b"maas_k1_wronng"))) == [401]


def test_a_disconnect_is_noticed(gateway: RunningGateway) -> None:
    client = gateway.connect()
    client.sendall(get(b"/hold/me"))
    deadline = time.monotonic() + 5
    while not gateway.pending and time.monotonic() < deadline:
        time.sleep(0.01)
    client.close()
    while not gateway.disconnects and time.monotonic() < deadline:
        time.sleep(0.01)
    assert gateway.disconnects == ["/hold/me"]
    gateway.call(lambda: gateway.pending[0].respond(200, b"too late"))


def test_request_ids_are_echoed(gateway: RunningGateway) -> None:
    answer = gateway.exchange(get(b"/rest/a", AUTH + b"X-Request-ID: abc-1\r\n"))
    assert b"x-request-id: abc-1\r\n" in answer
    answer = gateway.exchange(get(b"/nothing", AUTH + b"X-Request-ID: abc-2\r\n"))
    assert b"x-request-id: abc-2\r\n" in answer
    assert b'"request_id": "abc-2"' in answer


def test_http_1_0_is_answered_and_closed(gateway: RunningGateway) -> None:
    with gateway.connect() as client:
        client.sendall(b"GET /livez HTTP/1.0\r\n" + HOST + b"\r\n")
        answer = read_all(client, 2)
        assert statuses(answer) == [200]
        assert b"connection: close" in answer


def test_a_head_that_does_not_end_times_out(gateway: RunningGateway) -> None:
    gateway.server.read_timeouts = ReadTimeouts(head_s=0.1)
    with gateway.connect() as client:
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: loc")
        assert statuses(read_all(client, 3)) == [408]


def test_a_body_that_is_too_slow_times_out(gateway: RunningGateway) -> None:
    gateway.server.read_timeouts = ReadTimeouts(body_grace_s=0.1)
    with gateway.connect() as client:
        client.sendall(post(b"/echo", b"x" * 900)[:-800])
        assert statuses(read_all(client, 3)) == [408]


def test_an_idle_connection_is_closed(gateway: RunningGateway) -> None:
    gateway.server.read_timeouts = ReadTimeouts(idle_s=0.1)
    with gateway.connect() as client:
        client.settimeout(3)
        assert client.recv(10) == b""


def test_no_prefix_or_mutation_of_a_request_causes_a_server_error(gateway: RunningGateway) -> None:
    whole = post(b"/echo", b"abc", b"Content-Type: application/json\r\n")
    for cut in range(1, len(whole), 3):
        with gateway.connect() as client:
            client.sendall(whole[:cut])
    for at in range(0, len(whole), 2):
        with gateway.connect() as client:
            client.sendall(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
            codes = statuses(read_all(client, 0.02))
            assert all(200 <= status < 500 for status in codes), (at, codes)
    assert statuses(gateway.exchange(get(b"/livez", b""))) == [200]


def test_incomplete_bodies_use_limited_memory(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_memory, "INCOMPLETE_BYTES", 1000)
    whole = post(b"/echo", b"x" * 900)

    def wait_for_bytes(size: int) -> None:
        wait_until(lambda: gateway.server.body_memory.bytes == size)

    with gateway.connect() as slow, gateway.connect() as other:
        slow.sendall(whole[:-1])
        wait_for_bytes(899)
        other.sendall(whole[:-700])
        refused = read_all(other)
        assert statuses(refused) == [503] and b"retry-after: " in refused
        wait_for_bytes(899)
        # The rest of a refused body is read, and the next request answered.
        other.sendall(whole[-700:] + post(b"/echo", b"small"))
        assert read_all(other).endswith(b"small")
        slow.sendall(whole[-1:])
        assert statuses(read_all(slow)) == [200]
        wait_for_bytes(0)
    with gateway.connect() as leaving:
        leaving.sendall(whole[:-1])
        wait_for_bytes(899)
    wait_for_bytes(0)
