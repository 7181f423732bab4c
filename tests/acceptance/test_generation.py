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
from maas.domain.errors import ReplicaLost, Unavailable
from maas.domain.generation import Ending
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
        client.publish_prepared(text_model(weights, options=options))
        # One thread: several wait for each other, long where others want the cores as well.
        client.deploy("smollm2", max_batch=8, threads=1)
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


def test_a_new_deployment_gets_the_machines_cores_and_as_many_slots_as_help(stack: Stack) -> None:
    stack.request("PUT", "/api/v1/deployments/usual", {"model": "smollm2"})
    scaling = stack.client().deployments.get("usual").deployment.scaling
    stack.client().deployments.delete("usual")
    assert scaling == Scaling(replicas=1, max_batch=32, threads=len(os.sched_getaffinity(0)))


def test_many_write_at_once_and_each_gets_its_own_words(stack: Stack) -> None:
    async def use(route: LiveRoute) -> None:
        words = ["apple", "river", "seven", "winter", "music", "paper", "garden", "yellow", "horse"]
        calls = [
            Written(
                prompt=f"The word is {word}. " * 4 + "The word is", max_tokens=2, temperature=0.0
            )
            for word in words
        ]
        for call in calls:
            route.generate(call)
        for word, call in zip(words, calls, strict=True):
            assert (await call.over(60)).text == f" {word}."
            assert call.ending.completion_tokens == call.completion_tokens == 2

    routed(stack, use)


def test_callers_leave_at_any_point_and_every_token_is_accounted_for(stack: Stack) -> None:
    async def use(route: LiveRoute) -> None:
        link = route._least_busy()
        assert link is not None
        before = await link.ping(5)
        calls = [Written(f"Tell a story of {n}.", seconds=120.0, max_tokens=12) for n in range(24)]
        for call in calls:
            route.generate(call)
        for number, call in enumerate(calls):
            if number % 3 == 1:
                await until(lambda c=call: c.pieces or c.ends, 60)  # type: ignore[misc]
            if number % 3 != 2:
                route.cancel_generation(call)
        for call in calls:
            await call.over(60)
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
        await until(wrote(call, 3), 30)
        left = time.monotonic()
        route.cancel_generation(call)
        await call.over()
        assert time.monotonic() - left < 1.0

    routed(stack, use)


def test_killed_while_it_writes_it_is_lost_at_once_and_comes_back(stack: Stack) -> None:
    async def use(route: LiveRoute) -> None:
        call = Written("Write on and on.", logit_bias={0: -100.0, 2: -100.0}, max_tokens=500)
        route.generate(call)
        await until(wrote(call, 3), 30)
        (victim,) = stack.replica_pids("smollm2")
        reading = Written("word " * 300, seconds=60.0, max_tokens=2)
        route.generate(reading)
        await asyncio.sleep(0)
        stack.kill(victim)
        killed = time.monotonic()
        await call.over(5)
        assert isinstance(call.error, ReplicaLost)
        assert time.monotonic() - killed < 1.0
        await reading.over(60)
        # Held for the next replica, for as long as calls are held.
        assert isinstance(reading.ends[0], Ending | Unavailable)

    routed(stack, use)
    stack.wait_ready("smollm2")
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

    def reason() -> str:
        return client.deployments.get("odd").reason

    wait_until(lambda: "lhama" in reason(), 60, "a reason")
    assert "llama.cpp does not load odd.gguf" in reason()
    client.deployments.delete("odd")
