"""Long requests are computed in parts, and all work for them is counted."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from array import array
from pathlib import Path

import numpy as np
import pytest
import uvloop

from maas.domain.deployments import LocalFile, ReplicaSpec, Scaling
from maas.domain.errors import DeadlineExceeded, InferenceFailed, MaasError
from maas.domain.signature import Signature, TensorSpec
from maas.runtimes.base import Arrays
from maas.serving.replica.batching import Batcher
from maas.serving.replica.prediction_server import ReplicaServer
from maas.serving.routing.call import Call
from maas.serving.routing.dispatch import ReplicaLink
from maas.serving.wire.elements import bytes_elements, pack_elements
from maas.serving.wire.messages import Answers, Priority
from maas.serving.wire.tensors import Tensor
from tests.support.fakes.model_server import SIGNATURE, Model, echo, predict, run
from tests.support.fakes.replica_peer import until


class TimedCall(Call):
    """Records its outcome and the work done for it."""

    def __init__(self, rows: int, tenant: int, deadline: float = 60.0) -> None:
        data = np.arange(rows, dtype="<f4").tobytes()
        super().__init__([data], ((1,),), rows, time.monotonic() + deadline, tenant)
        self.compute_us = 0
        self.parts = 0
        self.part = asyncio.Event()
        self.end: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()

    def computed(self, compute_us: int, prompt_tokens: int = 0, completion_tokens: int = 0) -> None:
        self.compute_us += compute_us
        self.parts += 1
        self.part.set()

    def answered(self, answers: Answers, at: int, first_row: int) -> None:
        self.compute_us += answers.compute_us
        self.end.set_result([float(v) for v in np.frombuffer(answers.columns[0].data, "<f4")])

    def failed(self, error: MaasError) -> None:
        self.end.set_exception(error)


def steady_pace(inputs: Arrays) -> Arrays:
    time.sleep(0.005 * len(inputs["x"]))
    return echo(inputs)


def test_other_requests_run_between_the_parts_of_a_long_one() -> None:
    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        long = TimedCall(140, tenant=1)
        link.submit(long)
        await asyncio.wait_for(long.part.wait(), 5)
        assert server.stats()["queued"] == 1
        # One of another tenant, and one of the same.
        assert await predict(link, 7.0) == [7.0]
        second = TimedCall(1, tenant=1)
        link.submit(second)
        assert await second.end == [0.0]
        assert not long.end.done()
        assert await long.end == list(range(140))
        assert long.parts > 3
        assert 650_000 < long.compute_us < 10_000_000
        assert link.rows_in_flight == 0
        assert not link._in_parts

    run(steady_pace, work, Scaling(max_batch=4))


@pytest.mark.parametrize("cause", ["cancelled", "late", "broken"])
def test_a_long_request_ends_between_its_parts(cause: str) -> None:
    def model_of(inputs: Arrays) -> Arrays:
        if cause == "broken" and (inputs["x"] > 20).any():
            raise InferenceFailed("negative")
        return steady_pace(inputs)

    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        long = TimedCall(2000, 1, deadline=0.2 if cause == "late" else 60.0)
        link.submit(long)
        await asyncio.wait_for(long.part.wait(), 5)
        measured_us = long.compute_us
        if cause == "cancelled":
            link.cancel(long)
        else:
            with pytest.raises(DeadlineExceeded if cause == "late" else InferenceFailed):
                await asyncio.wait_for(long.end, 5)
        assert await predict(link, 7.0) == [7.0]
        assert server.stats()["queued"] == 0
        assert sum(model.calls) < 200
        assert not link._in_parts  # the end of its last part was reported
        assert long.compute_us > measured_us or cause == "broken"  # a failed part does not count
        assert (link.in_flight, link.rows_in_flight) == (0, 0)

    run(model_of, work, Scaling(max_batch=4))


@pytest.mark.parametrize("rows", [40, 3], ids=["first of many parts", "a batch by itself"])
def test_work_for_a_client_that_disconnects_is_counted(rows: int) -> None:
    gate = threading.Event()

    def gated(inputs: Arrays) -> Arrays:
        gate.wait(5)
        return steady_pace(inputs)

    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        call = TimedCall(rows, tenant=1)
        link.submit(call)
        await until(lambda: len(model.calls) == 1)
        link.cancel(call)
        gate.set()
        await asyncio.wait_for(call.part.wait(), 5)
        assert call.compute_us >= 3 * 5000
        assert await predict(link, 7.0) == [7.0]
        assert not link._in_parts and not call.end.done()
        assert sum(model.calls) <= 4 + 1

    run(gated, work, Scaling(max_batch=4))


def test_a_request_canceled_during_the_retry_of_a_failed_batch_is_forgotten() -> None:
    gate = threading.Event()
    gate.set()
    computed: list[float] = []

    def reject_negatives(inputs: Arrays) -> Arrays:
        gate.wait(5)
        computed.extend(inputs["x"][:, 0])
        time.sleep(0.005)
        if (inputs["x"] < 0).any():
            raise InferenceFailed("negative")
        return echo(inputs)

    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        await predict(link, 0.0)
        gate.clear()
        asks = [asyncio.ensure_future(predict(link, x)) for x in (-1.0, 2.0, 3.0, 4.0)]
        await until(lambda: len(model.calls) == 2)
        # The whole batch is running; its last request is not yet retried alone when it is canceled.
        asks[3].cancel()
        await asyncio.sleep(0)
        gate.set()
        assert await asks[2] == [3.0] and await asks[1] == [2.0]
        with pytest.raises(InferenceFailed):
            await asks[0]
        await until(lambda: not link._in_parts)
        assert computed.count(4.0) == 1

    run(reject_negatives, work, Scaling(max_batch=4))


def test_an_awaited_long_request_has_the_time_of_all_its_parts() -> None:
    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        tensor = Tensor("FP32", (40, 1), np.arange(40, dtype="<f4").tobytes())
        deadline = time.monotonic() + 60
        _, compute_us = await link.predict_timed(
            SIGNATURE, {"x": tensor}, 40, deadline, Priority.NORMAL
        )
        assert len(model.calls) > 1
        assert compute_us >= 40 * 5000

    run(steady_pace, work, Scaling(max_batch=4))


def test_a_long_request_canceled_during_its_answer_is_counted_and_forgotten() -> None:
    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        long = TimedCall(1, tenant=1)
        link.submit(long)
        await asyncio.sleep(0)
        number = long.number
        link._progress_received({"id": number, "compute_us": 5, "is_last": False})
        link.cancel(long)
        link._answers_received(
            Answers(array("Q", [number]), array("I", [1]), array("I", [0]), 12, 1, [])
        )
        assert long.compute_us == 12
        assert not link._in_parts

    run(echo, work)


def test_long_texts_are_computed_in_parts_and_short_ones_are_not() -> None:
    signature = Signature((TensorSpec("x", "BYTES"),), (TensorSpec("y", "BYTES"),))
    sizes: list[int] = []

    def predict_bytes(inputs: Arrays) -> Arrays:
        sizes.append(len(inputs["x"]))
        time.sleep(0.02 * len(inputs["x"]))
        return {"y": inputs["x"]}

    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="r") as home:
            files = (LocalFile("f", "f", "0" * 64),)
            spec = ReplicaSpec(
                "r", "d", "m", 1, "v", "test", files, signature, Scaling(), str(Path(home) / "s")
            )
            server = ReplicaServer(spec, Batcher(Model(predict_bytes), signature, 64))
            await server.listen()
            link = await ReplicaLink.connect(spec.socket)
            for length in (10, 2000):
                texts = [bytes([65 + n]) * (length + n) for n in range(20)]
                tensor = Tensor("BYTES", (20,), pack_elements(texts))
                deadline = time.monotonic() + 5
                outputs = await link.predict(
                    signature, {"x": tensor}, 20, deadline, Priority.NORMAL
                )
                assert bytes_elements(outputs["y"].data) == texts
            await server.drain()

    uvloop.run(main())
    assert sizes[0] == 20
    assert sizes[1] == 8
    assert all(size < 8 for size in sizes[2:])
    assert sum(sizes) == 40
