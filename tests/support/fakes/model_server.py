"""A replica's server with a model of the test, and a link to it over a unix socket."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import uvloop

from maas.domain.deployments import LocalFile, ReplicaSpec, Scaling
from maas.domain.signature import Signature, TensorSpec
from maas.runtimes.base import Arrays, LoadRequest, Runtime
from maas.serving.replica.batching import Batcher
from maas.serving.replica.prediction_server import ReplicaServer
from maas.serving.routing.dispatch import ReplicaLink
from maas.serving.wire.messages import Priority
from maas.serving.wire.tensors import Tensor

SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (1,)),), (TensorSpec("y", "FP32", (1,)),), example={"x": [1.0]}
)
Predict = Callable[[Arrays], Arrays]


class Model(Runtime):
    def __init__(self, predict: Predict) -> None:
        self.calls: list[int] = []
        self.is_closed = threading.Event()
        self._predict = predict

    def load(self, request: LoadRequest) -> None:
        raise NotImplementedError

    def predict(self, inputs: Arrays) -> Arrays:
        self.calls.append(len(inputs["x"]))
        return self._predict(inputs)

    def close(self) -> None:
        self.is_closed.set()


def echo(inputs: Arrays) -> Arrays:
    return {"y": inputs["x"]}


async def predict(link: ReplicaLink, *values: float, seconds: float = 5.0) -> list[float]:
    data = np.array(values, "<f4").tobytes()
    tensor = Tensor("FP32", (len(values), 1), data)
    deadline = time.monotonic() + seconds
    answer = await link.predict(SIGNATURE, {"x": tensor}, len(values), deadline, Priority.NORMAL)
    return [float(v) for v in np.frombuffer(answer["y"].data, "<f4")]


def run(
    predict: Predict,
    work: Callable[[ReplicaLink, Model, ReplicaServer], Awaitable[None]],
    scaling: Scaling | None = None,
) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="r") as home:
            spec = ReplicaSpec(
                "r",
                "d",
                "m",
                1,
                "v",
                "test",
                (LocalFile("f", "f", "0" * 64),),
                SIGNATURE,
                scaling or Scaling(),
                str(Path(home) / "s"),
                drain_s=2.0,
            )
            model = Model(predict)
            server = ReplicaServer(spec, Batcher(model, SIGNATURE, spec.scaling.max_batch))
            await server.listen()
            link = await ReplicaLink.connect(spec.socket)
            await work(link, model, server)
            await server.drain()

    uvloop.run(main())
