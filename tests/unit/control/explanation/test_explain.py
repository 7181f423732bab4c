"""Explanations are few at once, end by their deadline, and ask politely."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from maas.control.explanation import explain
from maas.control.explanation.explain import (
    AT_ONCE,
    BATCH_ROWS,
    Explainer,
    ExplanationCost,
    RowToExplain,
)
from maas.domain.errors import DeadlineExceeded, MaasError, Overloaded, ReplicaLost
from maas.domain.signature import Signature, TensorSpec
from maas.serving.wire.messages import Priority
from maas.serving.wire.tensors import Tensor, Tensors

WIDTH = 20
SIGNATURE = Signature((TensorSpec("x", "FP32", (WIDTH,)),), (TensorSpec("y", "FP32", (WIDTH,)),))


class Link:
    """A replica that gives back what it gets, when it may."""

    is_open = True

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.error: MaasError | None = None
        self.asked: list[tuple[int, Priority]] = []

    async def predict_timed(
        self, signature: Signature, tensors: Tensors, rows: int, deadline: float, priority: Priority
    ) -> tuple[Tensors, int]:
        self.asked.append((rows, priority))
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + 5):
            await self.may.wait()
        if self.error:
            raise self.error
        return {"y": Tensor("FP32", (rows, WIDTH), tensors["x"].data)}, 10


class Answering:
    """The part of the reconciler that explanations use."""

    def __init__(self, link: Link) -> None:
        template = SimpleNamespace(signature=SIGNATURE, model="m", variant="onnx")
        target = SimpleNamespace(version=1)
        self.group = SimpleNamespace(digest="d", template=template, target=target)
        self.replica = SimpleNamespace(link=link)

    def answering(self, name: str) -> tuple[Any, Any]:
        return self.group, self.replica


QUESTION = RowToExplain({"x": list(range(WIDTH))}, target=3, samples=512)


@pytest.fixture
def short_deadline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(explain, "DEADLINE_S", 0.3)
    yield


def explainer(link: Link) -> Explainer:
    reconciler: Any = Answering(link)
    return Explainer(reconciler, lambda model, version: None)


def test_one_too_many_is_refused_with_a_time_to_come_back() -> None:
    async def scene() -> None:
        link = Link()
        explains = explainer(link)
        running = [
            asyncio.create_task(explains.explain("t", QUESTION, key=f"key {n}"))
            for n in range(AT_ONCE)
        ]
        while len(link.asked) < AT_ONCE:
            await asyncio.sleep(0.01)
        with pytest.raises(Overloaded) as refused:
            await explains.explain("t", QUESTION, key="another")
        assert refused.value.retry_after
        link.may.set()
        for task in running:
            answer = await task
            assert answer["prediction"] == pytest.approx(3)
        asked = len(link.asked)
        spent = ExplanationCost()
        assert (await explains.explain("t", QUESTION, spent))["version"] == 1
        latest = [rows for rows, _ in link.asked[asked:]]
        assert (spent.rows, spent.compute_us) == (sum(latest), 10 * len(latest))
        assert spent.rows > BATCH_ROWS
        assert all(rows <= BATCH_ROWS and p is Priority.LOW for rows, p in link.asked)
        explains.close()

    asyncio.run(scene())


def test_no_key_can_take_every_place() -> None:
    async def scene() -> None:
        link = Link()
        explains = explainer(link)
        running = [
            asyncio.create_task(explains.explain("t", QUESTION, key="busy"))
            for _ in range(AT_ONCE + 1)
        ]
        while len(link.asked) < AT_ONCE - 1:
            await asyncio.sleep(0.01)
        running.append(asyncio.create_task(explains.explain("t", QUESTION, key="quiet")))
        while len(link.asked) < AT_ONCE:
            await asyncio.sleep(0.01)
        link.may.set()
        *busy, quiet = await asyncio.gather(*running, return_exceptions=True)
        assert isinstance(quiet, dict)
        refused = [one for one in busy if isinstance(one, Overloaded)]
        assert len(refused) == 2 and all("for this key" in str(one) for one in refused)
        explains.close()

    asyncio.run(scene())


def test_the_deadline_ends_it_and_frees_the_place(short_deadline: None) -> None:
    async def scene() -> None:
        link = Link()
        explains = explainer(link)
        # The link answers nothing until it may.
        with pytest.raises(DeadlineExceeded, match="fewer samples"):
            await explains.explain("t", QUESTION)
        link.may.set()
        explain.DEADLINE_S = 30.0
        assert await explains.explain("t", QUESTION)
        explains.close()

    asyncio.run(scene())


def test_a_callers_deadline_ends_it_and_what_it_took_is_told() -> None:
    async def scene() -> None:
        link = Link()
        link.may.set()
        explains, spent = explainer(link), ExplanationCost()
        clock = [100.0]
        with pytest.MonkeyPatch.context() as patched:
            # Each call of the model takes two seconds.
            patched.setattr(explain, "time", SimpleNamespace(monotonic=lambda: clock[0]))
            whole, asked = link.predict_timed, link.asked

            async def slow(*told: Any) -> tuple[Tensors, int]:
                clock[0] += 2.0
                return await whole(*told)

            patched.setattr(link, "predict_timed", slow)
            with pytest.raises(DeadlineExceeded, match="within 5 s"):
                await explains.explain("t", QUESTION, spent, until=105.0)
        assert len(asked) == 3 and spent.rows == sum(rows for rows, _ in asked)
        explains.close()

    asyncio.run(scene())


def test_errors_of_the_replica_pass_through() -> None:
    async def scene() -> None:
        link = Link()
        link.may.set()
        link.error = ReplicaLost()
        explains = explainer(link)
        with pytest.raises(ReplicaLost):
            await explains.explain("t", QUESTION)
        explains.close()

    asyncio.run(scene())
