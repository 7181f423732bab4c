"""A language model as a deployment: /predict, and its replica killed while it writes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from maas.domain.deployments import Scaling
from maas.domain.errors import ReplicaLost
from maas.gateway.snapshot_watch import SnapshotWatch
from maas.serving.routing import LiveRoute, Router
from tests.generations import Written, wrote
from tests.replica_peer import until
from tests.stack import Stack, running, wait_until
from tests.weights import smollm2, text_model

QUESTION = "What is the capital of France? Answer with one word."


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A server with the deployment `smollm2`."""
    weights = smollm2()
    with running(tmp_path_factory.mktemp("h")) as started:
        client = started.client()
        options = {"context_length": 1024, "predict_max_tokens": 24}
        client.publish_prepared(text_model(weights, **options))
        client.deploy("smollm2")
        started.wait_ready("smollm2")
        yield started


def routed(stack: Stack, use: Callable[[LiveRoute], Awaitable[None]]) -> None:
    """`use` with the way to the deployment that a gateway has."""

    async def main() -> None:
        router = Router()
        watch = SnapshotWatch(stack.home / "run" / "snapshot.json", router.apply)
        try:
            (route,) = router.get("smollm2").routes
            await until(lambda: route.is_ready)
            await use(route)
        finally:
            watch.close()
            router.close()
            await asyncio.sleep(0.05)

    uvloop.run(main())


def test_a_prompt_is_answered_in_words(stack: Stack) -> None:
    client = stack.client()
    assert "Paris" in client.predict("smollm2", prompt=QUESTION)["text"]
    several = client.predict("smollm2", prompt=[QUESTION, "Say hello."])["text"]
    assert len(several) == 2 and "Paris" in several[0] and several[1]


def test_a_new_deployment_has_the_machines_cores_and_as_many_slots_as_help(stack: Stack) -> None:
    scaling = stack.client().deployments.get("smollm2").deployment.scaling
    cores = len(os.sched_getaffinity(0))
    assert scaling == Scaling(replicas=1, max_batch=32, threads=cores)


def test_many_write_at_once_and_each_gets_its_own_words(stack: Stack) -> None:
    async def use(route: LiveRoute) -> None:
        def call(n: int) -> Written:
            return Written(prompt=f"{n}, {n + 1}, {n + 2},", max_tokens=6, temperature=0.0)

        calls = [call(n) for n in range(1, 60, 7)]
        for one in calls:
            route.generate(one)
        for n, one in zip(range(1, 60, 7), calls, strict=True):
            await one.over(60)
            assert str(n + 3) in one.text
            assert one.ending.completion_tokens == one.completion_tokens

    routed(stack, use)


def test_half_of_the_callers_leave_and_every_token_is_accounted_for(stack: Stack) -> None:
    async def use(route: LiveRoute) -> None:
        link = route._least_busy()
        assert link is not None
        before = await link.ping(5)
        calls = [Written(f"Tell a story of {n}.", max_tokens=40) for n in range(48)]
        for call in calls:
            route.generate(call)
        for number, call in enumerate(calls):
            if number % 3 == 0:
                route.cancel_generation(call)
            elif number % 3 == 1:
                await until(lambda c=call: c.pieces or c.ends, 60)  # type: ignore[misc]
                route.cancel_generation(call)
        left = time.monotonic()
        for number, call in enumerate(calls):
            await call.over(60)
            if number % 3 != 2:
                assert call.ending.reason == "cancelled" or call.ending.completion_tokens <= 40
        assert time.monotonic() - left < 60
        after = await link.ping(5)
        assert after["running"] == after["queued"] == 0
        for kind in ("prompt_tokens", "completion_tokens"):
            metered = sum(getattr(call.ending, kind) for call in calls)
            assert metered == after[kind] - before[kind] > 0

    routed(stack, use)


def test_a_cancelled_answer_frees_its_slot_within_a_second(stack: Stack) -> None:
    async def use(route: LiveRoute) -> None:
        call = Written("Write on and on.", logit_bias={0: -100.0, 2: -100.0})
        route.generate(call)
        await until(wrote(call, 3))
        left = time.monotonic()
        route.cancel_generation(call)
        await call.over()
        assert time.monotonic() - left < 1.0

    routed(stack, use)


def test_killed_while_it_writes_it_is_lost_at_once_and_comes_back(stack: Stack) -> None:
    async def use(route: LiveRoute) -> None:
        forever = {"logit_bias": {0: -100.0, 2: -100.0}, "max_tokens": 500}
        call = Written("Write on and on.", **forever)
        route.generate(call)
        await until(wrote(call, 3))
        (victim,) = stack.replica_pids("smollm2")
        # One that has written nothing yet is held for the next replica and written there.
        reading = Written("word " * 700, seconds=60.0, max_tokens=2)
        route.generate(reading)
        await asyncio.sleep(0)
        stack.kill(victim)
        killed = time.monotonic()
        await call.over(5)
        assert isinstance(call.error, ReplicaLost)
        assert time.monotonic() - killed < 1.0
        await reading.over(60)
        assert reading.ending.completion_tokens == 2
        assert stack.replica_pids("smollm2") != [victim]

    routed(stack, use)
    assert "Paris" in stack.client().predict("smollm2", prompt=QUESTION)["text"]


def test_a_file_that_llama_cpp_does_not_load_says_why(stack: Stack, tmp_path: Path) -> None:
    """A header that is in order, of a kind of model that does not exist."""
    data = bytearray(smollm2().read_bytes())
    at = data.index(b"llama")
    data[at : at + 5] = b"lhama"
    path = tmp_path / "odd.gguf"
    path.write_bytes(data.replace(b"llama.", b"lhama."))
    client = stack.client()
    client.publish_prepared(text_model(path, "odd"))
    client.deploy("odd", wait_s=0)
    wait_until(lambda: client.deployments.get("odd").reason, 60, "a reason")
    reason = client.deployments.get("odd").reason
    assert "odd.gguf" in reason and "lhama" in reason
    client.deployments.delete("odd")
