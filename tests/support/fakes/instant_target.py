"""A gateway server whose target answers every call at once, driven through fake transports."""

from __future__ import annotations

import asyncio
import json
import struct
import threading
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from maas.domain.keys import Scope
from maas.domain.signature import Signature, TensorSpec
from maas.domain.snapshot import TargetRoute
from maas.gateway.calls import CallContext
from maas.gateway.http.auth import HostCheck, KeyRing
from maas.gateway.http.connection import Connection
from maas.gateway.http.large_bodies import LargeBodies
from maas.gateway.http.routes import Route, RouteTable
from maas.gateway.http.server import HttpServer
from maas.gateway.metering import Meter
from maas.gateway.oip.infer import OipHandler
from maas.gateway.predict.bodies import PREDICT_TYPES
from maas.gateway.predict.tensors import PredictHandler
from maas.serving.routing.call import Call
from maas.serving.routing.live_target import LiveTarget
from maas.serving.routing.router import LiveDeployment, Router
from maas.serving.wire.messages import Answers, Column
from tests.support.gateway import CALLER, TOKEN

PREDICT, INFER = "/predict/d", "/v2/models/d/infer"
NUMBER = TensorSpec("x", "FP32", (1,))


class AnswerTransport:
    """Collects what is written to it."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.answers.append(data)

    def is_closing(self) -> bool:
        return False


class InstantTarget(LiveTarget):
    """Answers each call at once: every row is its own number."""

    def submit(self, call: Call) -> None:
        values = struct.pack(f"<{call.rows}f", *range(call.rows))
        column = Column((1,), values)
        answers = Answers(array("Q", [1]), array("I", [call.rows]), array("I", [0]), 1, call.rows,
                          [column], call.rows, len(values))  # fmt: skip
        call.answered(answers, 0, 0)


def instant_server(folder: Path, large: LargeBodies, spec: TensorSpec = NUMBER) -> HttpServer:
    """A server with `/predict` and `/v2` for the deployment `d`, whose input is `spec`."""
    signature = Signature((spec,), (TensorSpec("y", "FP32", (1,)),))
    router, keys = Router(), KeyRing()
    keys.replace([CALLER])
    meter = Meter(folder / "usage", folder, "gateway-0")
    deployment = router.deployments["d"] = LiveDeployment("d")
    target = TargetRoute(1, "v", 100, signature, ())
    deployment.targets = [InstantTarget("d", target, 256)]
    context = CallContext(router, meter, large, 60.0)
    predict, oip = PredictHandler(context), OipHandler(context, "0", 8 << 20)
    table = RouteTable(
        [
            Route("POST", "/predict/{deployment}", Scope.CALL, predict.handle, 8 << 20,
                  PREDICT_TYPES),
            Route("POST", "/v2/models/{model}/infer", Scope.CALL, oip.infer, 8 << 20, ()),
            Route("POST", "/v2/models/{model}/versions/{version}/infer", Scope.CALL, oip.infer,
                  8 << 20),
        ]
    )  # fmt: skip
    return HttpServer(table, keys, HostCheck(()))


def connect(server: HttpServer) -> tuple[Connection, list[bytes]]:
    """A connection to `server` and the answers that are written to it."""
    connection, transport = Connection(server), AnswerTransport()
    connection.connection_made(cast(asyncio.Transport, transport))
    return connection, transport.answers


def tensor_request(path: str, rows: int, more: str = "") -> bytes:
    """A request with `rows` rows of one number; `more` has further headers."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, 1], "data": [1.5] * rows}
    inputs: dict[str, Any] = {"inputs": [tensor]} if path != PREDICT else {"x": [[1.5]] * rows}
    body = json.dumps(inputs).encode()
    return post(path, body, "Content-Type: application/json\r\n" + more)


def post(path: str, body: bytes, more: str) -> bytes:
    """A request with `body`; `more` has further headers, each with its line end."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {TOKEN}\r\n{more}"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def occupy(large: LargeBodies) -> threading.Event:
    """Occupy the thread until the returned event is set."""
    free = threading.Event()
    large._thread.submit(free.wait, 5)
    return free
