"""Large bodies are read and written in a thread, within bounds; others are answered meanwhile."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import struct
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from maas.domain.errors import MaasError, Unavailable
from maas.domain.keys import Scope
from maas.domain.signature import Signature, TensorSpec
from maas.domain.snapshot import TargetRoute as SnapshotRoute
from maas.gateway.http import large_bodies as large_bodies_module
from maas.gateway.http.auth import HostCheck, KeyRing
from maas.gateway.http.connection import Connection
from maas.gateway.http.large_bodies import LargeBodies, large_bodies
from maas.gateway.http.routes import Route, RouteTable
from maas.gateway.http.server import HttpServer
from maas.gateway.metering import Meter
from maas.gateway.oip.infer import OipCall, OipHandler
from maas.gateway.oip.json_fast_path import OipJsonFastPath
from maas.gateway.predict import bodies
from maas.gateway.predict.bodies import PREDICT_TYPES
from maas.gateway.predict.tensors import PredictCall, PredictHandler
from maas.processes import gateway as gateway_process
from maas.serving.routing.call import Call
from maas.serving.routing.live_target import LiveTarget
from maas.serving.routing.router import LiveDeployment, Router
from maas.serving.wire.messages import Answers, Column
from maas.settings import ServerSettings, Settings
from tests.support.gateway import CALLER, TOKEN

ROWS = 20_000
NUMBER = TensorSpec("x", "FP32", (1,))
PREDICT, INFER = "/predict/d", "/v2/models/d/infer"


class _Transport:
    def __init__(self) -> None:
        self.answers: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.answers.append(data)

    def is_closing(self) -> bool:
        return False


class _Route(LiveTarget):
    """Answers each call at once: every row is its own number."""

    def submit(self, call: Call) -> None:
        values = struct.pack(f"<{call.rows}f", *range(call.rows))
        column = Column((1,), values)
        answers = Answers(array("Q", [1]), array("I", [call.rows]), array("I", [0]), 1, call.rows,
                          [column], call.rows, len(values))  # fmt: skip
        call.answered(answers, 0, 0)


def _server(folder: Path, given: TensorSpec = NUMBER) -> HttpServer:
    signature = Signature((given,), (TensorSpec("y", "FP32", (1,)),))
    router, keys = Router(), KeyRing()
    keys.replace([CALLER])
    meter = Meter(folder / "usage", folder, "gateway-0")
    deployment = router.deployments["d"] = LiveDeployment("d")
    deployment.targets = [_Route("d", SnapshotRoute(1, "v", 100, signature, ()), 256)]
    doors = PredictHandler(router, meter, 60.0), OipHandler(router, meter, 60.0, "0", 8 << 20)
    table = RouteTable(
        [
            Route("POST", "/predict/{deployment}", Scope.CALL, doors[0].handle, 8 << 20,
                  PREDICT_TYPES),
            Route("POST", "/v2/models/{model}/infer", Scope.CALL, doors[1].infer, 8 << 20, ()),
            Route("POST", "/v2/models/{model}/versions/{version}/infer", Scope.CALL,
                  doors[1].infer, 8 << 20),
        ]
    )  # fmt: skip
    return HttpServer(table, keys, HostCheck(()))


def _client(server: HttpServer) -> tuple[Connection, list[bytes]]:
    connection, transport = Connection(server), _Transport()
    connection.connection_made(cast(asyncio.Transport, transport))
    return connection, transport.answers


def _request(path: str, rows: int, more: str = "") -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, 1], "data": [1.5] * rows}
    inputs: dict[str, Any] = {"inputs": [tensor]} if path != PREDICT else {"x": [[1.5]] * rows}
    body = json.dumps(inputs).encode()
    return _post(path, body, "Content-Type: application/json\r\n" + more)


def _post(path: str, body: bytes, more: str) -> bytes:
    """`more`: headers, each with the end of its line."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {TOKEN}\r\n{more}"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def _occupy(large: LargeBodies) -> threading.Event:
    """The thread is busy until the event is set."""
    free = threading.Event()
    large._thread.submit(free.wait, 5)
    return free


@pytest.fixture
def busy() -> Iterator[threading.Event]:
    free = _occupy(large_bodies)
    yield free
    free.set()


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
        slow = waiting(bodies.decoded, lambda request, _: len(request.body) > ROWS)
        monkeypatch.setattr("maas.gateway.predict.tensors.decoded", slow)
    else:
        slow = waiting(OipJsonFastPath.decode, lambda _, body: len(body) > ROWS)
        monkeypatch.setattr(OipJsonFastPath, "decode", slow)

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
    failed: list[Any] = []
    monkeypatch.setattr(_Route, "submit", lambda _, call: submitted.append(call))
    monkeypatch.setattr(Meter, "failed", lambda _, *what: failed.append(what))

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
        assert failed == []

    asyncio.run(run())


@pytest.mark.parametrize("path", [PREDICT, INFER])
def test_what_waits_for_the_thread_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: threading.Event, path: str
) -> None:
    request = _request(path, ROWS)
    monkeypatch.setattr(large_bodies_module, "WAITING_BYTES", len(request) * 2)

    async def run() -> None:
        server = _server(tmp_path)
        clients = [_client(server) for _ in range(4)]
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
        await _until(lambda: clients[0][1] and clients[3][1])
        assert b"200 OK" in clients[0][1][0] and b"200 OK" in clients[3][1][0]
        assert large_bodies.waiting == 0

    asyncio.run(run())


def _stub(body: bytes = b"") -> Any:
    server = SimpleNamespace(loop=asyncio.get_running_loop())
    return SimpleNamespace(connection=SimpleNamespace(server=server), body=body, on_disconnect=None)


def test_an_answer_is_written_at_once_if_too_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_bodies_module, "WAITING_BYTES", 100)

    async def run() -> None:
        large = LargeBodies()
        free = _occupy(large)
        written: list[str | MaasError] = []
        large.write(_stub(), 60, lambda: "waits", written.append)
        large.write(_stub(), 60, lambda: "at once", written.append)
        assert written == ["at once"]
        free.set()
        await large.close()
        assert large.waiting == 0

    asyncio.run(run())


def test_the_end_waits_for_what_is_being_done_and_gives_up_the_rest() -> None:
    async def run() -> None:
        large = LargeBodies()
        begun, free = threading.Event(), threading.Event()
        found: dict[str, str | MaasError] = {}

        def slow() -> str:
            begun.set()
            free.wait(5)
            return "done"

        large.write(_stub(), 1, slow, lambda got: found.update(first=got))
        large.write(_stub(), 1, lambda: "never", lambda got: found.update(second=got))
        await _until(begun.is_set)
        closing = asyncio.ensure_future(large.close())
        await asyncio.sleep(0.01)
        assert not closing.done()
        free.set()
        await closing
        assert found["first"] == "done" and isinstance(found["second"], Unavailable)
        large.write(_stub(), 1, lambda: "late", lambda got: found.update(third=got))
        assert found["third"] == "late"

    asyncio.run(run())


@pytest.mark.parametrize("path", [PREDICT, INFER])
def test_the_time_that_a_body_waits_counts(
    tmp_path: Path, busy: threading.Event, path: str
) -> None:
    async def run() -> None:
        server = _server(tmp_path)
        client, answers = _client(server)
        client.data_received(_request(path, ROWS, "X-Request-Timeout-Ms: 1\r\n"))
        await asyncio.sleep(0.01)
        busy.set()
        await _until(lambda: answers)
        assert answers[0].startswith(b"HTTP/1.1 504")

    asyncio.run(run())


@pytest.mark.parametrize("path", [PREDICT, INFER])
def test_the_deadline_is_set_before_the_body_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: threading.Event, path: str
) -> None:
    deadlines: list[float] = []
    monkeypatch.setattr(_Route, "submit", lambda _, call: deadlines.append(call.deadline))

    async def run() -> None:
        client, _ = _client(_server(tmp_path))
        client.data_received(_request(path, ROWS, "X-Request-Timeout-Ms: 50000\r\n"))
        arrived = time.monotonic()
        await asyncio.sleep(0.01)
        busy.set()
        await _until(lambda: deadlines)
        assert deadlines[0] <= arrived + 50

    asyncio.run(run())


@pytest.mark.parametrize("path", [PREDICT, INFER])
def test_a_deadline_that_is_none_is_refused_before_the_body_is_read(
    tmp_path: Path, busy: threading.Event, path: str
) -> None:
    async def run() -> None:
        client, answers = _client(_server(tmp_path))
        client.data_received(_request(path, ROWS, "X-Request-Timeout-Ms: soon\r\n"))
        assert answers[0].startswith(b"HTTP/1.1 400")

    asyncio.run(run())


@pytest.mark.parametrize("path", [PREDICT, INFER])
def test_what_goes_wrong_after_a_large_body_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    def submit(_: _Route, call: Call) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(_Route, "submit", submit)

    async def run() -> None:
        client, answers = _client(_server(tmp_path))
        client.data_received(_request(path, ROWS))
        await _until(lambda: answers)
        assert answers[0].startswith(b"HTTP/1.1 500") and b"secret" not in answers[0]

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream"])
def test_a_body_that_is_one_input_does_not_wait(
    tmp_path: Path, busy: threading.Event, kind: str
) -> None:
    async def run() -> None:
        client, answers = _client(_server(tmp_path, TensorSpec("x", "BYTES", ())))
        client.data_received(_post(PREDICT, b"x" * 100_000, f"Content-Type: {kind}\r\n"))
        assert b"200 OK" in answers[0]

    asyncio.run(run())


@pytest.mark.parametrize("datatype", ["BYTES", "FP32"])
def test_of_binary_tensors_only_bytes_wait(
    tmp_path: Path, busy: threading.Event, datatype: str
) -> None:
    """Elements of BYTES are counted one by one; others are taken as they are."""
    rows, size = 1000, 25
    element = struct.pack("<I", 1) + b"x" if datatype == "BYTES" else struct.pack("<f", 1.5)
    tail = element * rows * size
    tensor = {"name": "x", "datatype": datatype, "shape": [rows, size],
              "parameters": {"binary_data_size": len(tail)}}  # fmt: skip
    head = json.dumps({"inputs": [tensor]}).encode()
    length = f"Inference-Header-Content-Length: {len(head)}\r\n"

    async def run() -> None:
        client, answers = _client(_server(tmp_path, TensorSpec("x", datatype, (size,))))
        client.data_received(_post(INFER, head + tail, length))
        assert len(answers) == (0 if datatype == "BYTES" else 1)
        busy.set()
        await _until(lambda: answers)
        assert b"200 OK" in answers[0]

    asyncio.run(run())


@pytest.mark.parametrize("path", [INFER, "/v2/models/d/versions/1/infer"])
@pytest.mark.parametrize("rows", [1, ROWS])
def test_a_call_that_names_a_version_is_for_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, rows: int
) -> None:
    submitted: list[Call] = []
    monkeypatch.setattr(_Route, "submit", lambda _, call: submitted.append(call))

    async def run() -> None:
        client, _ = _client(_server(tmp_path))
        client.data_received(_request(path, rows))
        await _until(lambda: submitted)
        assert submitted[0].is_pinned is (path != INFER)

    asyncio.run(run())


def test_the_thread_ends_before_the_counters_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[str] = []
    large = LargeBodies()
    monkeypatch.setattr(gateway_process, "large_bodies", large)
    close = Meter.close

    def closes(meter: Meter) -> None:
        ends.append("meter")
        close(meter)

    monkeypatch.setattr(Meter, "close", closes)
    settings = Settings(home=str(tmp_path), server=ServerSettings(drain_s=0))
    for folder in (settings.run_dir, settings.usage_dir):
        folder.mkdir()
    lifeline, end = os.pipe()
    os.close(end)

    async def run() -> None:
        free = _occupy(large)
        large.write(_stub(), 1, lambda: "", lambda _: ends.append("answer"))
        asyncio.get_running_loop().call_later(0.05, free.set)
        listening = socket.create_server(("127.0.0.1", 0))
        await gateway_process.serve(settings, listening, lifeline)

    asyncio.run(run())
    gc.unfreeze()
    os.close(lifeline)
    assert ends == ["answer", "meter"]
