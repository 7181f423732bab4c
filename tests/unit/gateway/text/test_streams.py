"""Streams: disconnects, stalled clients, order and connections."""

from __future__ import annotations

import http.client
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from maas.gateway.http import sse
from maas.gateway.http.connection import Connection
from maas.serving.usage.usage_file import UsageFile
from tests.support.fakes.text_replica import (
    CHAT,
    HELLO,
    MESSAGE,
    MESSAGES,
    SLOW,
    TOKEN,
    TextGateway,
    running_text_gateway,
    words,
)
from tests.support.gateway import read_all, wait_for


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), [(CHAT, HELLO | {"n": 2}), (MESSAGES, MESSAGE)])
def test_a_disconnect_stops_the_generations_and_meters_them(
    text_gateway: TextGateway, path: str, body: dict[str, Any], stream: bool
) -> None:
    text_gateway.use(SLOW)
    client = text_gateway.send(path, body | {"stream": stream})
    wait_for(lambda: text_gateway.replica.running)
    time.sleep(0.05)
    client.close()
    wait_for(lambda: not text_gateway.replica.running, 1.0)
    wait_for(lambda: not text_gateway.service.active)
    assert text_gateway.replica.cancelled == body.get("n", 1)
    assert text_gateway.replica.completion_tokens > 0
    assert text_gateway.metered_tokens() == (7, text_gateway.replica.completion_tokens)
    usage_file = next(text_gateway.service.meter._run_dir.glob("usage/*.usage"))
    _, (usage,), _ = UsageFile.read(usage_file)
    assert usage.completion_tokens == text_gateway.replica.completion_tokens
    assert (usage.requests, usage.errors) == (1, 0)


def test_a_stalled_client_has_a_bounded_backlog_and_delays_no_other(
    text_gateway: TextGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "MAX_BACKLOG_BYTES", 50_000)
    text_gateway.use(lambda g: words("x" * 5000, "end") if g.messages != HELLO["messages"] else
             words(*["x" * 20_000] * 2000, pause=0.0005))  # fmt: skip
    stalled = socket.socket()
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stalled.connect(("127.0.0.1", text_gateway.port))
    data = json.dumps(HELLO | {"stream": True}).encode()
    stalled.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer "
        + TOKEN.encode() + b"\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % len(data) + data
    )  # fmt: skip
    other = HELLO | {"messages": [{"role": "user", "content": "other"}]}
    wait_for(lambda: text_gateway.replica.cancelled)
    assert text_gateway.answer(CHAT, other)["choices"][0]["message"]["content"].endswith("end")
    assert b'"code": "request_timeout"' in read_all(stalled, 2.0).replace(b'":"', b'": "')
    stalled.close()
    wait_for(lambda: not text_gateway.service.active)


def test_events_of_one_tick_are_sent_with_one_write(text_gateway: TextGateway) -> None:
    writes: list[bytes] = []
    original = Connection.write_streamed

    def record(self: Connection, request: Any, data: bytes) -> Any:
        writes.append(data)
        return original(self, request, data)

    Connection.write_streamed = record  # type: ignore[method-assign]
    try:
        text_gateway.use(words(*"abcdefgh", at_once=True))
        text_gateway.events(CHAT, HELLO)
    finally:
        Connection.write_streamed = original  # type: ignore[method-assign]
    assert len(writes) <= 4  # the head, the words, the last word, the ending


def test_pipelined_requests_are_answered_in_order(text_gateway: TextGateway) -> None:
    text_gateway.use(lambda g: words(str(g.max_tokens), pause=0.02 if g.max_tokens == 1 else 0.0))
    with text_gateway.send(CHAT, HELLO | {"stream": True, "max_tokens": 1}) as client:
        data = json.dumps(HELLO | {"stream": True, "max_tokens": 2}).encode()
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer "
            + TOKEN.encode() + b"\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            % len(data) + data
        )  # fmt: skip
        answer = read_all(client, 0.5)
    assert answer.count(b"[DONE]") == 2
    assert answer.index(b'"content":"1"') < answer.index(b'"content":"2"')


def test_a_connection_stays_open_after_a_stream(text_gateway: TextGateway) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", text_gateway.port, timeout=5)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    for _ in range(3):
        connection.request("POST", CHAT, json.dumps(HELLO | {"stream": True}), headers)
        response = connection.getresponse()
        assert response.read().endswith(b"data: [DONE]\n\n")
        assert connection.sock is not None
    connection.close()


def test_a_stopping_server_answers_active_requests_with_an_error(tmp_path: Path) -> None:
    with running_text_gateway(tmp_path) as text_gateway:
        text_gateway.use(SLOW)
        stream = text_gateway.send(CHAT, HELLO | {"stream": True})
        whole = text_gateway.send(CHAT, HELLO)
        wait_for(lambda: len(text_gateway.replica.running) == 2)
        time.sleep(0.05)
    assert b"the server is stopping" in read_all(stream)
    assert b"503" in read_all(whole).partition(b"\r\n")[0]
    assert text_gateway.replica.completion_tokens > 0
