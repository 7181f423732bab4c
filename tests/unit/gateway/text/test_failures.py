"""Errors, revoked keys, deadlines and overload during text generation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maas.domain.errors import ContextLengthExceeded, InvalidInput, ReplicaLost
from maas.serving.usage.usage_file import UsageFile
from tests.support.fakes.text_replica import (
    CALLER,
    CHAT,
    HELLO,
    MESSAGE,
    MESSAGES,
    SLOW,
    Script,
    TextGateway,
    parse_events,
    running_text_gateway,
    words,
)
from tests.support.gateway import read_all, wait_for


def test_errors_have_the_shape_of_their_protocol(text_gateway: TextGateway) -> None:
    for token, status, kind, code in (
        ("wrong", 401, "authentication_error", "invalid_api_key"),
        ("maas_k2_secret", 403, "permission_error", "forbidden"),
    ):
        actual, _, body = text_gateway.post(CHAT, HELLO, token)
        error = json.loads(body)["error"]
        assert (actual, error["type"], error["code"], error["param"]) == (status, kind, code, None)
        actual, _, body = text_gateway.post(MESSAGES, MESSAGE, token)
        answer = json.loads(body)
        assert (actual, answer["type"], answer["error"]["type"]) == (status, "error", kind)
    for name in ("nobody", "digits"):
        actual, _, body = text_gateway.post(CHAT, HELLO | {"model": name})
        error = json.loads(body)["error"]
        assert (actual, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert name in error["message"]
    assert "regression" in error["message"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ContextLengthExceeded("9 of 8"), 400, "context_length_exceeded"),
        (InvalidInput("logit_bias: no token 9"), 400, "invalid_input"),
        (ReplicaLost("gone", retry_after=2.0), 503, "replica_lost"),
    ],
)
def test_errors_of_the_engine_have_their_status_even_for_streams(
    text_gateway: TextGateway, error: Any, status: int, code: str
) -> None:
    text_gateway.use(Script([], error=error))
    for more in ({}, {"stream": True}):
        actual, headers, body = text_gateway.post(CHAT, HELLO | more)
        assert (actual, json.loads(body)["error"]["code"]) == (status, code)
        assert ("retry-after" in headers) is (status == 503)


def test_a_failed_stream_ends_with_the_error_and_closes(text_gateway: TextGateway) -> None:
    text_gateway.use(words("Hel", error=ReplicaLost("the process ended", retry_after=1.0)))
    for path, body, name in ((CHAT, HELLO, ""), (MESSAGES, MESSAGE, "error")):
        with text_gateway.send(path, body | {"stream": True}) as client:
            answer = read_all(client, 2.0)  # until the server closes the connection
            last = parse_events(answer.rpartition(b"data: ")[2].partition(b"\n")[0].join(
                [b"data: ", b"\n\n"]))[0][1]  # fmt: skip
            assert last["error"]["message"] == "the process ended"
            assert b"event: error" in answer if name else b"[DONE]" not in answer
            assert client.recv(1) == b""
    wait_for(
        lambda: text_gateway.metered_tokens() == (0, 2)
    )  # both clients have received their token


def test_a_stream_ends_when_its_key_is_revoked(text_gateway: TextGateway) -> None:
    text_gateway.use(SLOW)
    with text_gateway.send(CHAT, HELLO | {"stream": True}) as client:
        wait_for(lambda: text_gateway.replica.running)
        text_gateway.call(lambda: text_gateway.service.stop_revoked(lambda _: True))
        assert text_gateway.replica.running
        text_gateway.call(lambda: text_gateway.service.stop_revoked(lambda key: key != CALLER))
        answer = read_all(client, 2.0)
    assert b"this key was revoked" in answer and b"[DONE]" not in answer
    wait_for(lambda: text_gateway.replica.cancelled == 1 and not text_gateway.service.active)


def test_compute_time_is_metered_and_rows_only_of_answers(
    text_gateway: TextGateway, tmp_path: Path
) -> None:
    def metered() -> tuple[int, int, int, int]:
        _, (usage,), _ = UsageFile.read(tmp_path / "usage" / "g1.usage")
        return usage.requests, usage.rows, usage.errors, usage.compute_us

    text_gateway.use(words("Hi", compute_us=1500))
    assert text_gateway.post(CHAT, HELLO | {"n": 2})[0] == 200
    assert metered() == (1, 2, 0, 3000)
    text_gateway.use(Script([], error=ContextLengthExceeded("9 of 8")))
    assert text_gateway.post(CHAT, HELLO | {"n": 2})[0] == 400
    assert metered() == (1, 2, 1, 3000)


def test_overload_is_answered_with_429_and_retry_after(text_gateway: TextGateway) -> None:
    text_gateway.use(SLOW)
    clients = [text_gateway.send(CHAT, HELLO | {"n": 16}) for _ in range(4)]
    wait_for(lambda: len(text_gateway.replica.running) == 64)
    status, headers, body = text_gateway.post(CHAT, HELLO)
    assert (status, json.loads(body)["error"]["type"]) == (429, "rate_limit_error")
    assert int(headers["retry-after"]) >= 1
    status, _, body = text_gateway.post(MESSAGES, MESSAGE)
    assert (status, json.loads(body)["error"]["type"]) == (429, "rate_limit_error")
    for client in clients:
        client.close()
    wait_for(lambda: not text_gateway.replica.running)
    wait_for(lambda: not text_gateway.service.active)


def test_a_deadline_ends_a_generation(tmp_path: Path) -> None:
    with running_text_gateway(tmp_path, timeout_s=0.3) as text_gateway:
        text_gateway.use(SLOW)
        status, _, body = text_gateway.post(CHAT, HELLO)
        assert (status, json.loads(body)["error"]["code"]) == (504, "deadline_exceeded")
        _, _, answer = text_gateway.post(CHAT, HELLO | {"stream": True})
        assert parse_events(answer)[-1][1]["error"]["code"] == "deadline_exceeded"
        wait_for(lambda: not text_gateway.service.active)
        assert text_gateway.metered_tokens() == (
            text_gateway.replica.prompt_tokens,
            text_gateway.replica.completion_tokens,
        )
