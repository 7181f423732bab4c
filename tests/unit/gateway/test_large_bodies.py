"""Who sends or gets a large body holds up nobody else: it is read and written in a thread."""

from __future__ import annotations

import asyncio
import json
import struct
import threading
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from maas.domain.keys import Scope
from maas.domain.signature import Signature, TensorSpec
from maas.domain.snapshot import Route as SnapshotRoute
from maas.gateway import predict_bodies
from maas.gateway.auth import HostCheck, KeyRing
from maas.gateway.connection import Connection
from maas.gateway.metering import Meter
from maas.gateway.oip import OipCall, OipDoor
from maas.gateway.oip_json import QuickOip
from maas.gateway.predict import PredictCall, PredictDoor
from maas.gateway.routes import Route, RouteTable
from maas.gateway.server import HttpServer
from maas.serving.call import Call
from maas.serving.live_route import LiveRoute
from maas.serving.messages import Answers, Column
from maas.serving.routing import LiveDeployment, Router

from .conftest import CALLER, TOKEN

ROWS = 20_000
PREDICT, INFER = "/predict/d", "/v2/models/d/infer"


class _Transport:
    def __init__(self) -> None:
        self.answers: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.answers.append(data)

    def is_closing(self) -> bool:
        return False


class _Route(LiveRoute):
    """Answers each call at once: every row is its own number."""

    def submit(self, call: Call) -> None:
        values = struct.pack(f"<{call.rows}f", *range(call.rows))
        column = Column((1,), values)
        answers = Answers(array("Q", [1]), array("I", [call.rows]), array("I", [0]), 1, call.rows,
                          [column], call.rows, len(values))  # fmt: skip
        call.answered(answers, 0, 0)


def _server(folder: Path) -> HttpServer:
    signature = Signature((TensorSpec("x", "FP32", (1,)),), (TensorSpec("y", "FP32", (1,)),))
    router, keys = Router(), KeyRing()
    keys.replace([CALLER])
    meter = Meter(folder / "usage", folder, "gateway-0")
    deployment = router.deployments["d"] = LiveDeployment("d")
    deployment.routes = [_Route("d", SnapshotRoute(1, "v", 100, signature, ()), 256)]
    doors = PredictDoor(router, meter, 60.0), OipDoor(router, meter, 60.0, "0", 8 << 20)
    table = RouteTable(
        [
            Route("POST", "/predict/{deployment}", Scope.CALL, doors[0].handle, 8 << 20),
            Route("POST", "/v2/models/{model}/infer", Scope.CALL, doors[1].infer, 8 << 20),
        ]
    )
    return HttpServer(table, keys, HostCheck(()))


def _client(server: HttpServer) -> tuple[Connection, list[bytes]]:
    connection, transport = Connection(server), _Transport()
    connection.connection_made(cast(asyncio.Transport, transport))
    return connection, transport.answers


def _request(path: str, rows: int) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, 1], "data": [1.5] * rows}
    inputs: dict[str, Any] = {"inputs": [tensor]} if path == INFER else {"x": [[1.5]] * rows}
    body = json.dumps(inputs).encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {TOKEN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


@pytest.mark.parametrize("path", [PREDICT, INFER])
@pytest.mark.parametrize("step", ["reading", "writing"])
def test_others_are_answered_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, step: str
) -> None:
    others_are_answered = threading.Event()

    def waiting(real: Callable[..., Any], is_large: Callable[..., bool]) -> Callable[..., Any]:
        def wrapped(*given: Any) -> Any:
            if is_large(*given):
                others_are_answered.wait(5)
            return real(*given)

        return wrapped

    if step == "writing":
        for kind in (PredictCall, OipCall):
            slow = waiting(kind.encode, lambda call, *_: call.rows == ROWS)
            monkeypatch.setattr(kind, "encode", slow)
    elif path == PREDICT:
        slow = waiting(predict_bodies.decoded, lambda request, _: len(request.body) > ROWS)
        monkeypatch.setattr("maas.gateway.predict.decoded", slow)
    else:
        slow = waiting(QuickOip.decode, lambda _, body: len(body) > ROWS)
        monkeypatch.setattr(QuickOip, "decode", slow)

    async def run() -> None:
        server = _server(tmp_path)
        large, large_answers = _client(server)
        large.data_received(_request(path, ROWS))
        for _ in range(20):
            small, small_answers = _client(server)
            small.data_received(_request(path, 1))
            assert b"200 OK" in small_answers[0]
            await asyncio.sleep(0.001)
        assert large_answers == []
        others_are_answered.set()
        while not large_answers:
            await asyncio.sleep(0.001)
        assert b"200 OK" in large_answers[0]
        body = json.loads(large_answers[0].partition(b"\r\n\r\n")[2])
        got = body["outputs"][0]["data"] if path == INFER else body["y"]
        assert got == list(range(ROWS))

    asyncio.run(run())


@pytest.mark.parametrize("path", [PREDICT, INFER])
def test_a_large_body_that_is_wrong_is_refused_with_its_words(tmp_path: Path, path: str) -> None:
    async def run() -> None:
        client, answers = _client(_server(tmp_path))
        client.data_received(_request(path, ROWS).replace(b"1.5", b'"a"', 1))
        while not answers:
            await asyncio.sleep(0.001)
        assert answers[0].startswith(b"HTTP/1.1 422")
        assert b"'x'" in answers[0]

    asyncio.run(run())


def test_nothing_is_computed_for_a_client_that_left_while_its_body_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[Call] = []
    monkeypatch.setattr(_Route, "submit", lambda _, call: submitted.append(call))

    async def run() -> None:
        server = _server(tmp_path)
        leaving, _ = _client(server)
        staying, _ = _client(server)
        leaving.data_received(_request(PREDICT, ROWS))
        staying.data_received(_request(PREDICT, ROWS + 1))
        leaving.connection_lost(None)
        while not submitted:
            await asyncio.sleep(0.001)
        assert [call.rows for call in submitted] == [ROWS + 1]

    asyncio.run(run())
