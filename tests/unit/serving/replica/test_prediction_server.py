"""Batching, failures, cancellation, deadlines and draining of a replica."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
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
from maas.serving.routing.dispatch import ReplicaLink
from maas.serving.wire.messages import Priority
from maas.serving.wire.tensors import Tensor
from tests.support.fakes.model_server import SIGNATURE, Model, echo, predict, run
from tests.support.fakes.replica_peer import until


def test_requests_of_one_tick_share_a_batch_and_keep_their_answers() -> None:
    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        answers = await asyncio.gather(*(predict(link, float(n), n + 0.5) for n in range(20)))
        assert answers == [[n, n + 0.5] for n in range(20)]
        assert max(model.calls) > 2

    run(echo, work)


def test_more_rows_than_a_batch_are_split_and_joined() -> None:
    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        assert await predict(link, *range(10)) == list(range(10))
        assert model.calls == [4, 4, 2]

    run(echo, work, Scaling(max_batch=4))


def test_a_bad_row_fails_alone_within_few_calls() -> None:
    def reject_negatives(inputs: Arrays) -> Arrays:
        time.sleep(0.003)  # so that requests collect
        if (inputs["x"] < 0).any():
            raise InferenceFailed("negative")
        return echo(inputs)

    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        await predict(link, 1.0)
        answers = await asyncio.gather(
            *(predict(link, -1.0 if n == 7 else float(n)) for n in range(32)),
            return_exceptions=True,
        )
        assert isinstance(answers[7], InferenceFailed)
        assert [a for n, a in enumerate(answers) if n != 7] == [[n] for n in range(32) if n != 7]
        assert len(model.calls) < 1 + 2 * 6 + 2

    run(reject_negatives, work)


@pytest.mark.parametrize("error", [ValueError("odd"), RuntimeError("odd"), KeyError("y")])
def test_any_exception_of_the_model_fails_only_that_request(
    error: Exception,
) -> None:
    def broken(inputs: Arrays) -> Arrays:
        if (inputs["x"] < 0).any():
            raise error
        return echo(inputs)

    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        with pytest.raises(InferenceFailed):
            await predict(link, -1.0)
        assert await predict(link, 3.0) == [3.0]

    run(broken, work)


@pytest.mark.parametrize("shape", [(3,), (), (2, 1)])
def test_an_output_of_another_shape_than_declared_is_refused(
    shape: tuple[int, ...],
) -> None:
    def wide(inputs: Arrays) -> Arrays:
        return {"y": np.ones((len(inputs["x"]), *shape), np.float32)}

    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        with pytest.raises(InferenceFailed, match="the signature says"):
            await predict(link, 1.0)

    run(wide, work)


def test_outputs_that_cannot_be_joined_do_not_stop_the_replica() -> None:
    def ragged(inputs: Arrays) -> Arrays:
        return {"y": inputs["x"][: max(1, int(inputs["x"][0, 0]))]}

    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        with pytest.raises(MaasError):
            await predict(link, 1.0, 2.0, 3.0, 4.0)
        assert await predict(link, 1.0) == [1.0]

    run(ragged, work, Scaling(max_batch=2))


def test_a_request_canceled_while_it_runs_frees_its_place() -> None:
    def slow(inputs: Arrays) -> Arrays:
        time.sleep(0.05)
        return echo(inputs)

    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        await predict(link, 0.0)
        running = asyncio.ensure_future(predict(link, 1.0))
        await asyncio.sleep(0.02)
        running.cancel()
        waiting = asyncio.ensure_future(predict(link, 2.0))
        assert await asyncio.wait_for(waiting, 2) == [2.0]
        assert server.stats()["queued"] == 0
        assert await asyncio.wait_for(predict(link, 3.0), 2) == [3.0]

    run(slow, work, Scaling(max_batch=1))


def test_a_request_canceled_while_it_waits_is_never_computed() -> None:
    gate = threading.Event()
    gate.set()

    def slow(inputs: Arrays) -> Arrays:
        gate.wait(5)
        time.sleep(0.005)  # a shorter batch does not run in the thread
        return echo(inputs)

    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        await predict(link, 0.0)
        gate.clear()
        first = asyncio.ensure_future(predict(link, 1.0))
        await until(lambda: len(model.calls) == 2)
        others = [asyncio.ensure_future(predict(link, 2.0)) for _ in range(5)]
        await until(lambda: server.stats()["queued"] == 5)
        for other in others:
            other.cancel()
        await until(lambda: server.stats()["queued"] == 0)
        await until(lambda: not link._in_parts)  # the replica has confirmed the cancellations
        gate.set()
        assert await first == [1.0]
        assert await predict(link, 3.0) == [3.0]
        assert len(model.calls) == 3

    run(slow, work, Scaling(max_batch=1))


def test_a_deadline_that_passes_in_the_queue_is_an_error() -> None:
    def slow(inputs: Arrays) -> Arrays:
        time.sleep(0.1)
        return echo(inputs)

    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        await predict(link, 0.0)
        first = asyncio.ensure_future(predict(link, 1.0))
        await asyncio.sleep(0.01)
        with pytest.raises(DeadlineExceeded):
            await predict(link, 2.0, seconds=0.02)
        assert await first == [1.0]
        assert len(model.calls) == 2

    run(slow, work, Scaling(max_batch=1))


def test_draining_answers_accepted_requests_and_closes_the_model() -> None:
    def slow(inputs: Arrays) -> Arrays:
        time.sleep(0.05)
        return echo(inputs)

    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        answers = [asyncio.ensure_future(predict(link, float(n))) for n in range(5)]
        await asyncio.sleep(0.01)
        draining = asyncio.ensure_future(server.drain())
        assert await asyncio.gather(*answers) == [[float(n)] for n in range(5)]
        await asyncio.wait_for(draining, 1)
        assert not link.is_open
        assert await asyncio.to_thread(model.is_closed.wait, 1)

    run(slow, work, Scaling(max_batch=1))


def test_a_model_that_makes_progress_does_not_count_as_stuck() -> None:
    model = Model(echo)
    batcher = Batcher(model, SIGNATURE, 4)
    assert batcher.last_progress == 0.0
    model.last_progress = 7.0
    assert batcher.last_progress == 7.0

    async def work(link: ReplicaLink, _: Model, server: ReplicaServer) -> None:
        server._busy, server._busy_since = True, time.monotonic() - 60
        assert server.stats()["busy_s"] > 59
        server._batcher._runtime.last_progress = time.monotonic() - 1
        assert server.stats()["busy_s"] < 30
        server._batcher.silent_seconds = 120.0
        server._batcher._runtime.last_progress = time.monotonic() - 60
        assert server.stats()["busy_s"] == 0
        server._batcher._runtime.last_progress = time.monotonic() - 150
        server._busy_since = time.monotonic() - 150
        assert 29 < server.stats()["busy_s"] < 60
        server._busy = False
        assert server.stats()["busy_s"] == 0

    run(echo, work)


def test_rows_of_different_sizes_never_block_the_loop() -> None:
    """However short the last ones were, the next audio file may be an hour long."""
    signature = Signature((TensorSpec("x", "BYTES"),), (TensorSpec("y", "FP32", (1,)),))
    threads: list[str] = []

    def predict_bytes(inputs: Arrays) -> Arrays:
        threads.append(threading.current_thread().name)
        return {"y": np.zeros((1, 1), np.float32)}

    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="r") as home:
            files = (LocalFile("f", "f", "0" * 64),)
            spec = ReplicaSpec(
                "r", "d", "m", 1, "v", "test", files, signature, Scaling(), str(Path(home) / "s")
            )
            server = ReplicaServer(spec, Batcher(Model(predict_bytes), signature, 4))
            await server.listen()
            link = await ReplicaLink.connect(spec.socket)
            for _ in range(5):
                tensor = Tensor("BYTES", (1,), b"\1\0\0\0a")
                deadline = time.monotonic() + 5
                await link.predict(signature, {"x": tensor}, 1, deadline, Priority.NORMAL)
            await server.drain()

    uvloop.run(main())
    assert len(threads) == 5
    assert all(name.startswith("model") for name in threads)
