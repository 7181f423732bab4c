"""Requests with large bodies are decoded and encoded in a thread, within limits."""

from __future__ import annotations

import asyncio
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from maas.domain.signature import TensorSpec
from maas.gateway.http import large_bodies as large_bodies_module
from maas.gateway.http.large_bodies import LargeBodies
from maas.gateway.metering import Meter
from maas.gateway.oip.infer import OipCall
from maas.gateway.oip.json_fast_path import OipJsonFastPath
from maas.gateway.predict import bodies
from maas.gateway.predict.tensors import PredictCall
from maas.serving.routing.call import Call
from tests.support.fakes.instant_target import (
    INFER,
    PREDICT,
    InstantTarget,
    connect,
    instant_server,
    occupy,
    post,
    tensor_request,
    until,
)

ROWS = 20_000


@pytest.fixture
def large() -> LargeBodies:
    return LargeBodies()


@pytest.fixture
def busy(large: LargeBodies) -> Iterator[threading.Event]:
    free = occupy(large)
    yield free
    free.set()


@pytest.mark.parametrize("path", [PREDICT, INFER])
@pytest.mark.parametrize("step", ["reading", "writing"])
def test_other_requests_are_answered_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, step: str, large: LargeBodies
) -> None:
    others_are_answered = threading.Event()

    def waiting(real: Callable[..., Any], is_large: Callable[..., bool]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            if is_large(*arguments):
                others_are_answered.wait(5)
            return real(*arguments)

        return wrapped

    if step == "writing":
        for kind in (PredictCall, OipCall):
            slow = waiting(kind.encode, lambda call, *_: call.rows == ROWS)
            monkeypatch.setattr(kind, "encode", slow)
    elif path == PREDICT:
        slow = waiting(bodies.decode_body, lambda request, _: len(request.body) > ROWS)
        monkeypatch.setattr("maas.gateway.predict.tensors.decode_body", slow)
    else:
        slow = waiting(OipJsonFastPath.decode, lambda _, body: len(body) > ROWS)
        monkeypatch.setattr(OipJsonFastPath, "decode", slow)

    async def run() -> None:
        server = instant_server(tmp_path, large)
        client, large_answers = connect(server)
        client.data_received(tensor_request(path, ROWS))
        for _ in range(20):
            small, small_answers = connect(server)
            small.data_received(tensor_request(path, 1))
            assert b"200 OK" in small_answers[0]
            await asyncio.sleep(0.001)
        assert large_answers == []
        others_are_answered.set()
        while not large_answers:
            await asyncio.sleep(0.001)
        assert b"200 OK" in large_answers[0]
        body = json.loads(large_answers[0].partition(b"\r\n\r\n")[2])
        data = body["outputs"][0]["data"] if path == INFER else body["y"]
        assert data == list(range(ROWS))

    asyncio.run(run())


@pytest.mark.parametrize("path", [PREDICT, INFER])
def test_a_malformed_large_body_is_refused_with_the_reason(
    tmp_path: Path, path: str, large: LargeBodies
) -> None:
    async def run() -> None:
        client, answers = connect(instant_server(tmp_path, large))
        client.data_received(tensor_request(path, ROWS).replace(b"1.5", b'"a"', 1))
        while not answers:
            await asyncio.sleep(0.001)
        assert answers[0].startswith(b"HTTP/1.1 422")
        assert b"'x'" in answers[0]

    asyncio.run(run())


def test_nothing_is_computed_for_a_client_that_disconnected_while_its_body_was_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: LargeBodies
) -> None:
    submitted: list[Call] = []
    failed: list[Any] = []
    monkeypatch.setattr(InstantTarget, "submit", lambda _, call: submitted.append(call))
    monkeypatch.setattr(Meter, "failed", lambda _, *arguments: failed.append(arguments))

    async def run() -> None:
        server = instant_server(tmp_path, large)
        leaving, _ = connect(server)
        staying, _ = connect(server)
        leaving.data_received(tensor_request(PREDICT, ROWS))
        staying.data_received(tensor_request(PREDICT, ROWS + 1))
        leaving.connection_lost(None)
        while not submitted:
            await asyncio.sleep(0.001)
        assert [call.rows for call in submitted] == [ROWS + 1]
        assert failed == []

    asyncio.run(run())


@pytest.mark.parametrize("path", [PREDICT, INFER])
def test_the_bytes_that_wait_for_the_thread_are_limited(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    busy: threading.Event,
    path: str,
    large: LargeBodies,
) -> None:
    request = tensor_request(path, ROWS)
    monkeypatch.setattr(large_bodies_module, "WAITING_BYTES", len(request) * 2)

    async def run() -> None:
        server = instant_server(tmp_path, large)
        clients = [connect(server) for _ in range(4)]
        for connection, _ in clients[:3]:
            connection.data_received(request)
        assert [answers[:1] for _, answers in clients[:2]] == [[], []]
        refused = clients[2][1][0]
        assert refused.startswith(b"HTTP/1.1 503") and b"\r\nretry-after: 1\r\n" in refused
        clients[1][0].connection_lost(None)
        await asyncio.sleep(0)
        clients[3][0].data_received(request)
        assert clients[3][1] == []
        busy.set()
        await until(lambda: clients[0][1] and clients[3][1])
        assert b"200 OK" in clients[0][1][0] and b"200 OK" in clients[3][1][0]
        assert large.waiting == 0

    asyncio.run(run())


@pytest.mark.parametrize("path", [PREDICT, INFER])
def test_the_wait_for_the_thread_counts_towards_the_deadline(
    tmp_path: Path, busy: threading.Event, path: str, large: LargeBodies
) -> None:
    async def run() -> None:
        server = instant_server(tmp_path, large)
        client, answers = connect(server)
        client.data_received(tensor_request(path, ROWS, "X-Request-Timeout-Ms: 1\r\n"))
        await asyncio.sleep(0.01)
        busy.set()
        await until(lambda: answers)
        assert answers[0].startswith(b"HTTP/1.1 504")

    asyncio.run(run())


@pytest.mark.parametrize("path", [PREDICT, INFER])
def test_the_deadline_is_set_before_the_body_is_decoded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    busy: threading.Event,
    path: str,
    large: LargeBodies,
) -> None:
    deadlines: list[float] = []
    monkeypatch.setattr(InstantTarget, "submit", lambda _, call: deadlines.append(call.deadline))

    async def run() -> None:
        client, _ = connect(instant_server(tmp_path, large))
        client.data_received(tensor_request(path, ROWS, "X-Request-Timeout-Ms: 50000\r\n"))
        arrived = time.monotonic()
        await asyncio.sleep(0.01)
        busy.set()
        await until(lambda: deadlines)
        assert deadlines[0] <= arrived + 50

    asyncio.run(run())


@pytest.mark.parametrize("path", [PREDICT, INFER])
def test_a_malformed_deadline_is_refused_before_the_body_is_decoded(
    tmp_path: Path, busy: threading.Event, path: str, large: LargeBodies
) -> None:
    async def run() -> None:
        client, answers = connect(instant_server(tmp_path, large))
        client.data_received(tensor_request(path, ROWS, "X-Request-Timeout-Ms: soon\r\n"))
        assert answers[0].startswith(b"HTTP/1.1 400")

    asyncio.run(run())


@pytest.mark.parametrize("path", [PREDICT, INFER])
def test_an_error_after_a_large_body_was_decoded_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, large: LargeBodies
) -> None:
    def submit(_: InstantTarget, call: Call) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(InstantTarget, "submit", submit)

    async def run() -> None:
        client, answers = connect(instant_server(tmp_path, large))
        client.data_received(tensor_request(path, ROWS))
        await until(lambda: answers)
        assert answers[0].startswith(b"HTTP/1.1 500") and b"secret" not in answers[0]

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream"])
def test_a_body_that_is_one_input_does_not_wait_for_the_thread(
    tmp_path: Path, busy: threading.Event, kind: str, large: LargeBodies
) -> None:
    async def run() -> None:
        client, answers = connect(instant_server(tmp_path, large, TensorSpec("x", "BYTES", ())))
        client.data_received(post(PREDICT, b"x" * 100_000, f"Content-Type: {kind}\r\n"))
        assert b"200 OK" in answers[0]

    asyncio.run(run())


@pytest.mark.parametrize("datatype", ["BYTES", "FP32"])
def test_only_binary_tensors_of_bytes_wait_for_the_thread(
    tmp_path: Path, busy: threading.Event, datatype: str, large: LargeBodies
) -> None:
    """Elements of BYTES are read one by one; other tensors are not decoded."""
    rows, size = 1000, 25
    element = struct.pack("<I", 1) + b"x" if datatype == "BYTES" else struct.pack("<f", 1.5)
    tail = element * rows * size
    tensor = {"name": "x", "datatype": datatype, "shape": [rows, size],
              "parameters": {"binary_data_size": len(tail)}}  # fmt: skip
    head = json.dumps({"inputs": [tensor]}).encode()
    length = f"Inference-Header-Content-Length: {len(head)}\r\n"

    async def run() -> None:
        client, answers = connect(
            instant_server(tmp_path, large, TensorSpec("x", datatype, (size,)))
        )
        client.data_received(post(INFER, head + tail, length))
        assert len(answers) == (0 if datatype == "BYTES" else 1)
        busy.set()
        await until(lambda: answers)
        assert b"200 OK" in answers[0]

    asyncio.run(run())


@pytest.mark.parametrize("path", [INFER, "/v2/models/d/versions/1/infer"])
@pytest.mark.parametrize("rows", [1, ROWS])
def test_a_request_for_a_version_is_answered_by_no_other_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, rows: int, large: LargeBodies
) -> None:
    submitted: list[Call] = []
    monkeypatch.setattr(InstantTarget, "submit", lambda _, call: submitted.append(call))

    async def run() -> None:
        client, _ = connect(instant_server(tmp_path, large))
        client.data_received(tensor_request(path, rows))
        await until(lambda: submitted)
        assert submitted[0].is_pinned is (path != INFER)

    asyncio.run(run())
