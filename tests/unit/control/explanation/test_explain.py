"""Explanations: limits, deadlines, cost, and low priority of their predictions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from maas.control.explanation import explain
from maas.control.explanation.explain import (
    BATCH_ROWS,
    MAX_RUNNING,
    Explainer,
    ExplanationCost,
)
from maas.control.explanation.request import RowToExplain
from maas.domain.errors import DeadlineExceeded, MaasError, Overloaded, ReplicaLost
from maas.domain.signature import Signature, TensorSpec
from maas.serving.wire.messages import Priority
from maas.serving.wire.tensors import Tensor, Tensors

WIDTH = 20
SIGNATURE = Signature((TensorSpec("x", "FP32", (WIDTH,)),), (TensorSpec("y", "FP32", (WIDTH,)),))


class Link:
    """A replica that returns its input once `may_answer` is set."""

    is_open = True

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.error: MaasError | None = None
        self.predictions: list[tuple[int, Priority]] = []

    async def predict_timed(
        self, signature: Signature, tensors: Tensors, rows: int, deadline: float, priority: Priority
    ) -> tuple[Tensors, int]:
        self.predictions.append((rows, priority))
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + 5):
            await self.may_answer.wait()
        if self.error:
            raise self.error
        return {"y": Tensor("FP32", (rows, WIDTH), tensors["x"].data)}, 10


class ReadyReplica:
    """The part of the reconciler that explanations use."""

    def __init__(self, link: Link) -> None:
        template = SimpleNamespace(signature=SIGNATURE, model="m", variant="onnx")
        target = SimpleNamespace(version=1)
        self.group = SimpleNamespace(digest="d", template=template, target=target)
        self.replica = SimpleNamespace(link=link)

    def ready_replica(self, name: str) -> tuple[Any, Any]:
        return self.group, self.replica


ROW = RowToExplain({"x": list(range(WIDTH))}, target=3, samples=512)


@pytest.fixture
def short_deadline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(explain, "DEADLINE_S", 0.3)
    yield


def explainer_of(link: Link) -> Explainer:
    reconciler: Any = ReadyReplica(link)
    return Explainer(reconciler, lambda model, version: None)


def test_explanations_over_the_limit_are_refused_with_retry_after() -> None:
    async def scene() -> None:
        link = Link()
        explainer = explainer_of(link)
        running = [
            asyncio.create_task(explainer.explain("t", ROW, key=f"key {n}"))
            for n in range(MAX_RUNNING)
        ]
        while len(link.predictions) < MAX_RUNNING:
            await asyncio.sleep(0.01)
        with pytest.raises(Overloaded) as refused:
            await explainer.explain("t", ROW, key="another")
        assert refused.value.retry_after
        link.may_answer.set()
        for task in running:
            answer = await task
            assert answer["prediction"] == pytest.approx(3)
        count = len(link.predictions)
        cost = ExplanationCost()
        assert (await explainer.explain("t", ROW, cost))["version"] == 1
        latest = [rows for rows, _ in link.predictions[count:]]
        assert (cost.rows, cost.compute_us) == (sum(latest), 10 * len(latest))
        assert cost.rows > BATCH_ROWS
        assert all(rows <= BATCH_ROWS and p is Priority.LOW for rows, p in link.predictions)
        explainer.close()

    asyncio.run(scene())


def test_no_key_can_use_every_place() -> None:
    async def scene() -> None:
        link = Link()
        explainer = explainer_of(link)
        running = [
            asyncio.create_task(explainer.explain("t", ROW, key="busy"))
            for _ in range(MAX_RUNNING + 1)
        ]
        while len(link.predictions) < MAX_RUNNING - 1:
            await asyncio.sleep(0.01)
        running.append(asyncio.create_task(explainer.explain("t", ROW, key="quiet")))
        while len(link.predictions) < MAX_RUNNING:
            await asyncio.sleep(0.01)
        link.may_answer.set()
        *busy, quiet = await asyncio.gather(*running, return_exceptions=True)
        assert isinstance(quiet, dict)
        refused = [one for one in busy if isinstance(one, Overloaded)]
        assert len(refused) == 2 and all("for this key" in str(one) for one in refused)
        explainer.close()

    asyncio.run(scene())


def test_the_deadline_ends_an_explanation_and_frees_its_place(short_deadline: None) -> None:
    async def scene() -> None:
        link = Link()
        explainer = explainer_of(link)
        # The link does not answer yet.
        with pytest.raises(DeadlineExceeded, match="fewer samples"):
            await explainer.explain("t", ROW)
        link.may_answer.set()
        explain.DEADLINE_S = 30.0
        assert await explainer.explain("t", ROW)
        explainer.close()

    asyncio.run(scene())


def test_an_explanation_that_times_out_reports_its_cost() -> None:
    async def scene() -> None:
        link = Link()
        link.may_answer.set()
        explainer, cost = explainer_of(link), ExplanationCost()
        clock = [100.0]
        with pytest.MonkeyPatch.context() as patched:
            # Each prediction takes two seconds.
            patched.setattr(explain, "time", SimpleNamespace(monotonic=lambda: clock[0]))
            predict_timed, predictions = link.predict_timed, link.predictions

            async def slow(*arguments: Any) -> tuple[Tensors, int]:
                clock[0] += 2.0
                return await predict_timed(*arguments)

            patched.setattr(link, "predict_timed", slow)
            with pytest.raises(DeadlineExceeded, match="within 5 s"):
                await explainer.explain("t", ROW, cost, until=105.0)
        assert len(predictions) == 3 and cost.rows == sum(rows for rows, _ in predictions)
        explainer.close()

    asyncio.run(scene())


def test_errors_of_the_replica_pass_through() -> None:
    async def scene() -> None:
        link = Link()
        link.may_answer.set()
        link.error = ReplicaLost()
        explainer = explainer_of(link)
        with pytest.raises(ReplicaLost):
            await explainer.explain("t", ROW)
        explainer.close()

    asyncio.run(scene())
