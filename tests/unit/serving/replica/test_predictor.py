"""A replica's server with a model of the test's own, driven over a real unix socket."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from array import array
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
import uvloop

from maas.domain.deployments import LocalFile, ReplicaSpec, Scaling
from maas.domain.errors import DeadlineExceeded, InferenceFailed, InvalidInput, MaasError
from maas.domain.signature import Signature, TensorSpec
from maas.runtimes.base import Arrays, LoadRequest, Runtime
from maas.serving.replica.batching import Batcher
from maas.serving.replica.predictor import ReplicaServer
from maas.serving.replica.queue import RequestGroup
from maas.serving.routing.call import Call
from maas.serving.routing.dispatch import ReplicaLink
from maas.serving.wire.elements import bytes_elements, pack_elements
from maas.serving.wire.messages import Answers, Priority
from maas.serving.wire.tensors import Tensor
from tests.support.fakes.replica_peer import until

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


def _parcel(column: bytes) -> RequestGroup:
    """One row of one BYTES input."""
    return RequestGroup(
        array("Q", [1]),
        array("I", [1]),
        array("d", [0.0]),
        0,
        Priority.NORMAL,
        ((),),
        [column],
        None,
        0.0,
        1,
    )


async def ask(link: ReplicaLink, *values: float, seconds: float = 5.0) -> list[float]:
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


class Told(Call):
    """Notes what it is told."""

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


def paced(inputs: Arrays) -> Arrays:
    time.sleep(0.005 * len(inputs["x"]))
    return echo(inputs)


def test_a_long_request_lets_others_in_between_its_parts_and_is_counted_whole() -> None:
    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        long = Told(140, tenant=1)
        link.submit(long)
        await asyncio.wait_for(long.part.wait(), 5)
        assert server.stats()["queued"] == 1
        # Of another tenant, and of the same.
        assert await ask(link, 7.0) == [7.0]
        fellow = Told(1, tenant=1)
        link.submit(fellow)
        assert await fellow.end == [0.0]
        assert not long.end.done()
        assert await long.end == list(range(140))
        assert long.parts > 3
        assert 650_000 < long.compute_us < 10_000_000
        assert link.rows_in_flight == 0
        assert not link._in_parts

    run(paced, work, Scaling(max_batch=4))


@pytest.mark.parametrize("how", ["cancelled", "late", "broken"])
def test_a_long_request_ends_between_its_parts(how: str) -> None:
    def model_of(inputs: Arrays) -> Arrays:
        if how == "broken" and (inputs["x"] > 20).any():
            raise InferenceFailed("negative")
        return paced(inputs)

    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        long = Told(2000, 1, deadline=0.2 if how == "late" else 60.0)
        link.submit(long)
        await asyncio.wait_for(long.part.wait(), 5)
        known = long.compute_us
        if how == "cancelled":
            link.cancel(long)
        else:
            with pytest.raises(DeadlineExceeded if how == "late" else InferenceFailed):
                await asyncio.wait_for(long.end, 5)
        assert await ask(link, 7.0) == [7.0]
        assert server.stats()["queued"] == 0
        assert sum(model.calls) < 200
        assert not link._in_parts  # its last part was told
        assert long.compute_us > known or how == "broken"  # nothing of a broken part counts
        assert (link.in_flight, link.rows_in_flight) == (0, 0)

    run(model_of, work, Scaling(max_batch=4))


@pytest.mark.parametrize("rows", [40, 3], ids=["first of many parts", "a batch by itself"])
def test_what_is_being_computed_when_its_caller_leaves_is_counted(rows: int) -> None:
    gate = threading.Event()

    def gated(inputs: Arrays) -> Arrays:
        gate.wait(5)
        return paced(inputs)

    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        call = Told(rows, tenant=1)
        link.submit(call)
        await until(lambda: len(model.calls) == 1)
        link.cancel(call)
        gate.set()
        await asyncio.wait_for(call.part.wait(), 5)
        assert call.compute_us >= 3 * 5000
        assert await ask(link, 7.0) == [7.0]
        assert not link._in_parts and not call.end.done()
        assert sum(model.calls) <= 4 + 1

    run(gated, work, Scaling(max_batch=4))


def test_who_leaves_while_a_failed_batch_is_tried_anew_is_forgotten() -> None:
    gate = threading.Event()
    gate.set()
    seen: list[float] = []

    def picky(inputs: Arrays) -> Arrays:
        gate.wait(5)
        seen.extend(inputs["x"][:, 0])
        time.sleep(0.005)
        if (inputs["x"] < 0).any():
            raise InferenceFailed("negative")
        return echo(inputs)

    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        await ask(link, 0.0)
        gate.clear()
        asks = [asyncio.ensure_future(ask(link, x)) for x in (-1.0, 2.0, 3.0, 4.0)]
        await until(lambda: len(model.calls) == 2)
        # The whole batch is running; the last of it is not yet alone when its caller leaves.
        asks[3].cancel()
        await asyncio.sleep(0)
        gate.set()
        assert await asks[2] == [3.0] and await asks[1] == [2.0]
        with pytest.raises(InferenceFailed):
            await asks[0]
        await until(lambda: not link._in_parts)
        assert seen.count(4.0) == 1

    run(picky, work, Scaling(max_batch=4))


def test_whoever_awaits_a_long_request_learns_the_time_of_all_its_parts() -> None:
    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        tensor = Tensor("FP32", (40, 1), np.arange(40, dtype="<f4").tobytes())
        deadline = time.monotonic() + 60
        _, compute_us = await link.predict_timed(
            SIGNATURE, {"x": tensor}, 40, deadline, Priority.NORMAL
        )
        assert len(model.calls) > 1
        assert compute_us >= 40 * 5000

    run(paced, work, Scaling(max_batch=4))


def test_a_long_request_whose_cancel_crosses_its_answer_is_counted_and_forgotten() -> None:
    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        long = Told(1, tenant=1)
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


def test_a_request_of_few_long_texts_comes_in_parts_and_one_of_short_texts_does_not() -> None:
    signature = Signature((TensorSpec("x", "BYTES"),), (TensorSpec("y", "BYTES"),))
    sizes: list[int] = []

    def look(inputs: Arrays) -> Arrays:
        sizes.append(len(inputs["x"]))
        time.sleep(0.02 * len(inputs["x"]))
        return {"y": inputs["x"]}

    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="r") as home:
            files = (LocalFile("f", "f", "0" * 64),)
            spec = ReplicaSpec(
                "r", "d", "m", 1, "v", "test", files, signature, Scaling(), str(Path(home) / "s")
            )
            server = ReplicaServer(spec, Batcher(Model(look), signature, 64))
            await server.listen()
            link = await ReplicaLink.connect(spec.socket)
            for length in (10, 2000):
                texts = [bytes([65 + n]) * (length + n) for n in range(20)]
                tensor = Tensor("BYTES", (20,), pack_elements(texts))
                deadline = time.monotonic() + 5
                found = await link.predict(signature, {"x": tensor}, 20, deadline, Priority.NORMAL)
                assert bytes_elements(found["y"].data) == texts
            await server.drain()

    uvloop.run(main())
    assert sizes[0] == 20
    assert sizes[1] == 8
    assert all(size < 8 for size in sizes[2:])
    assert sum(sizes) == 40


def test_requests_of_one_tick_share_a_batch_and_keep_their_answers() -> None:
    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        answers = await asyncio.gather(*(ask(link, float(n), n + 0.5) for n in range(20)))
        assert answers == [[n, n + 0.5] for n in range(20)]
        assert max(model.calls) > 2

    run(echo, work)


def test_more_rows_than_a_batch_are_split_and_put_together() -> None:
    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        assert await ask(link, *range(10)) == list(range(10))
        assert model.calls == [4, 4, 2]

    run(echo, work, Scaling(max_batch=4))


def test_one_bad_row_costs_its_batch_mates_nothing_and_few_calls() -> None:
    def picky(inputs: Arrays) -> Arrays:
        time.sleep(0.003)  # so that requests gather
        if (inputs["x"] < 0).any():
            raise InferenceFailed("negative")
        return echo(inputs)

    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        await ask(link, 1.0)
        answers = await asyncio.gather(
            *(ask(link, -1.0 if n == 7 else float(n)) for n in range(32)), return_exceptions=True
        )
        assert isinstance(answers[7], InferenceFailed)
        assert [a for n, a in enumerate(answers) if n != 7] == [[n] for n in range(32) if n != 7]
        assert len(model.calls) < 1 + 2 * 6 + 2

    run(picky, work)


@pytest.mark.parametrize("defect", [ValueError("odd"), RuntimeError("odd"), KeyError("y")])
def test_a_model_that_raises_anything_fails_that_request_and_the_replica_goes_on(
    defect: Exception,
) -> None:
    def broken(inputs: Arrays) -> Arrays:
        if (inputs["x"] < 0).any():
            raise defect
        return echo(inputs)

    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        with pytest.raises(InferenceFailed):
            await ask(link, -1.0)
        assert await ask(link, 3.0) == [3.0]

    run(broken, work)


@pytest.mark.parametrize("shape", [(3,), (), (2, 1)])
def test_an_output_of_another_shape_than_declared_is_refused_not_sliced(
    shape: tuple[int, ...],
) -> None:
    def wide(inputs: Arrays) -> Arrays:
        return {"y": np.ones((len(inputs["x"]), *shape), np.float32)}

    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        with pytest.raises(InferenceFailed, match="the signature says"):
            await ask(link, 1.0)

    run(wide, work)


def test_outputs_that_cannot_be_put_together_do_not_end_the_replica() -> None:
    def ragged(inputs: Arrays) -> Arrays:
        return {"y": inputs["x"][: max(1, int(inputs["x"][0, 0]))]}

    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        with pytest.raises(MaasError):
            await ask(link, 1.0, 2.0, 3.0, 4.0)
        assert await ask(link, 1.0) == [1.0]

    run(ragged, work, Scaling(max_batch=2))


def test_who_cancels_while_it_runs_takes_nobodys_place() -> None:
    def slow(inputs: Arrays) -> Arrays:
        time.sleep(0.05)
        return echo(inputs)

    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        await ask(link, 0.0)
        running = asyncio.ensure_future(ask(link, 1.0))
        await asyncio.sleep(0.02)
        running.cancel()
        waiting = asyncio.ensure_future(ask(link, 2.0))
        assert await asyncio.wait_for(waiting, 2) == [2.0]
        assert server.stats()["queued"] == 0
        assert await asyncio.wait_for(ask(link, 3.0), 2) == [3.0]

    run(slow, work, Scaling(max_batch=1))


def test_who_cancels_while_it_waits_is_never_computed() -> None:
    gate = threading.Event()
    gate.set()

    def slow(inputs: Arrays) -> Arrays:
        gate.wait(5)
        time.sleep(0.005)  # what takes less is not worth a thread
        return echo(inputs)

    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        await ask(link, 0.0)
        gate.clear()
        first = asyncio.ensure_future(ask(link, 1.0))
        await until(lambda: len(model.calls) == 2)
        others = [asyncio.ensure_future(ask(link, 2.0)) for _ in range(5)]
        await until(lambda: server.stats()["queued"] == 5)
        for other in others:
            other.cancel()
        await until(lambda: server.stats()["queued"] == 0)
        await until(lambda: not link._in_parts)  # the replica told that it forgot them
        gate.set()
        assert await first == [1.0]
        assert await ask(link, 3.0) == [3.0]
        assert len(model.calls) == 3

    run(slow, work, Scaling(max_batch=1))


def test_a_deadline_that_passes_while_waiting_is_said_and_not_computed() -> None:
    def slow(inputs: Arrays) -> Arrays:
        time.sleep(0.1)
        return echo(inputs)

    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        await ask(link, 0.0)
        first = asyncio.ensure_future(ask(link, 1.0))
        await asyncio.sleep(0.01)
        with pytest.raises(DeadlineExceeded):
            await ask(link, 2.0, seconds=0.02)
        assert await first == [1.0]
        assert len(model.calls) == 2

    run(slow, work, Scaling(max_batch=1))


def test_draining_answers_what_was_accepted_and_then_lets_go() -> None:
    def slow(inputs: Arrays) -> Arrays:
        time.sleep(0.05)
        return echo(inputs)

    async def work(link: ReplicaLink, model: Model, server: ReplicaServer) -> None:
        asked = [asyncio.ensure_future(ask(link, float(n))) for n in range(5)]
        await asyncio.sleep(0.01)
        draining = asyncio.ensure_future(server.drain())
        assert await asyncio.gather(*asked) == [[float(n)] for n in range(5)]
        await asyncio.wait_for(draining, 1)
        assert not link.is_open
        assert await asyncio.to_thread(model.is_closed.wait, 1)

    run(slow, work, Scaling(max_batch=1))


def test_a_model_that_gets_on_with_a_long_batch_is_not_taken_for_stuck() -> None:
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


def test_rows_of_no_common_size_never_hold_up_the_loop() -> None:
    """However quick the last ones were, the next sound may be an hour long."""
    signature = Signature((TensorSpec("x", "BYTES"),), (TensorSpec("y", "FP32", (1,)),))
    threads: list[str] = []

    def look(inputs: Arrays) -> Arrays:
        threads.append(threading.current_thread().name)
        return {"y": np.zeros((1, 1), np.float32)}

    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="r") as home:
            files = (LocalFile("f", "f", "0" * 64),)
            spec = ReplicaSpec(
                "r", "d", "m", 1, "v", "test", files, signature, Scaling(), str(Path(home) / "s")
            )
            server = ReplicaServer(spec, Batcher(Model(look), signature, 4))
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


def test_encoded_images_come_as_bytes_and_text_as_text() -> None:
    signature = Signature((TensorSpec("x", "BYTES"),), (TensorSpec("y", "FP32", (1,)),))
    seen: list[object] = []

    def look(inputs: Arrays) -> Arrays:
        seen.extend(inputs["x"].tolist())
        return {"y": np.zeros((len(inputs["x"]), 1), np.float32)}

    class Images(Model):
        takes_bytes = True

    for kind, data in ((Images, b"\xff"), (Model, b"a")):
        column = len(data).to_bytes(4, "little") + data
        batcher = Batcher(kind(look), signature, 4)
        batcher.run([_parcel(column)])
    assert seen == [b"\xff", "a"]
    with pytest.raises(InvalidInput, match="UTF-8"):
        Batcher(Model(look), signature, 4).run([_parcel(b"\1\0\0\0\xff")])
