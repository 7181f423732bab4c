"""A language model as a deployment: /predict, and its replica killed while it writes."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from maas.domain.deployments import Scaling
from maas.gateway.snapshot_watch import SnapshotWatch
from maas.serving.routing.live_target import LiveTarget
from maas.serving.routing.router import Router
from tests.support.fakes.generations import Written, wrote
from tests.support.fakes.replica_peer import until
from tests.support.models.onnx import echo_model
from tests.support.models.packaged import smollm2, text_model
from tests.support.servers.maas import SLOT_FREED_S, STREAM_ENDED_S, Stack, running, wait_until

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


def routed(stack: Stack, use: Callable[[LiveTarget], Awaitable[None]]) -> None:
    """`use` with the way to the deployment that a gateway has."""

    async def main() -> None:
        router = Router()
        watch = SnapshotWatch(stack.home / "run" / "snapshot.json", router.apply)
        try:
            (target,) = router.get("smollm2").targets
            await until(lambda: target.is_ready)
            await use(target)
        finally:
            watch.close()
            router.close()
            await asyncio.sleep(0.05)

    uvloop.run(main())


def test_a_prompt_is_answered_in_words(stack: Stack) -> None:
    client = stack.client()
    counted: list[dict[str, Any]] = []
    kinds = ("prompt_tokens", "completion_tokens")

    async def count(target: LiveTarget) -> None:
        link = target._least_busy()
        assert link is not None
        counted.append(await link.ping(5))

    def used() -> list[int]:
        found = client.usage(deployment="smollm2")
        return [sum(u[kind] for u in found) for kind in kinds]

    routed(stack, count)
    assert "Paris" in client.predict("smollm2", prompt=QUESTION)["text"]
    several = client.predict("smollm2", prompt=[QUESTION, "Say hello."])["text"]
    assert len(several) == 2 and "Paris" in several[0] and several[1]
    routed(stack, count)
    before, after = counted
    spent = [after[kind] - before[kind] for kind in kinds]
    wait_until(lambda: used() == spent, 30, f"every token of {spent} is in the ledger")
    assert all(spent)


def test_only_the_scaling_that_was_named_is_set(stack: Stack) -> None:
    cores = len(os.sched_getaffinity(0))
    view = stack.client().deploy("usual", model="smollm2", replicas=0, wait_s=0)
    assert view.deployment.scaling == Scaling(replicas=0, max_batch=32, threads=cores)
    stack.client().deployments.delete("usual")


def test_many_write_at_once_and_each_gets_its_own_words(stack: Stack) -> None:
    async def use(target: LiveTarget) -> None:
        words = ["apple", "river", "seven", "winter", "music", "paper", "garden", "yellow", "horse"]
        calls = [
            Written(
                prompt=f"The word is {word}. " * 4 + "The word is", max_tokens=2, temperature=0.0
            )
            for word in words
        ]
        for call in calls:
            target.generate(call)
        for word, call in zip(words, calls, strict=True):
            assert (await call.over(60)).text == f" {word}."
            assert call.ending.completion_tokens == call.completion_tokens == 2

    routed(stack, use)


def test_callers_leave_at_any_point_and_every_token_is_accounted_for(stack: Stack) -> None:
    async def use(target: LiveTarget) -> None:
        link = target._least_busy()
        assert link is not None
        before = await link.ping(5)
        calls = [Written(f"Tell a story of {n}.", seconds=120.0, max_tokens=12) for n in range(24)]
        for call in calls:
            target.generate(call)
        for number, call in enumerate(calls):
            if number % 3 == 1:
                await until(lambda c=call: c.pieces or c.ends, 60)  # type: ignore[misc]
            if number % 3 != 2:
                target.cancel_generation(call)
        for call in calls:
            await call.over(60)
        after = await link.ping(5)
        assert after["running"] == after["queued"] == 0
        for kind in ("prompt_tokens", "completion_tokens"):
            metered = sum(getattr(call.ending, kind) for call in calls)
            assert metered == after[kind] - before[kind] > 0

    routed(stack, use)


def test_a_cancelled_answer_frees_its_slot_within_a_second(stack: Stack) -> None:
    async def use(target: LiveTarget) -> None:
        call = Written("Write on and on.", logit_bias={0: -100.0, 2: -100.0})
        target.generate(call)
        await until(wrote(call, 3), 30)
        left = time.monotonic()
        target.cancel_generation(call)
        await call.over()
        assert time.monotonic() - left <= SLOT_FREED_S

    routed(stack, use)


def endless(stack: Stack, token: str) -> http.client.HTTPResponse:
    """A stream that goes on for 500 tokens."""
    asked = {
        "model": "smollm2", "messages": [{"role": "user", "content": "Write on."}],
        "stream": True, "max_tokens": 500, "logit_bias": {"0": -100, "2": -100},
    }  # fmt: skip
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=60)
    connection.request("POST", "/v1/chat/completions", json.dumps(asked), headers)
    return connection.getresponse()


def test_a_revoked_key_ends_its_stream(stack: Stack) -> None:
    keys = stack.client().keys
    gone, kept = (keys.create(name, scopes=["call"]) for name in ("gone", "kept"))
    lost, other = (endless(stack, key.token) for key in (gone, kept))
    for stream in (lost, other):
        stream.readline()
    keys.revoke(gone.key.id)
    rest = lost.read()
    assert b"this key was revoked" in rest and rest.count(b"data:") < 500
    assert other.readline() == b"\n" and other.readline().startswith(b'data: {"id"')
    other.close()


def test_over_http_a_killed_engine_costs_its_streams_only(stack: Stack, tmp_path: Path) -> None:
    client = stack.client()
    client.publish(echo_model(tmp_path / "echo.onnx"), name="echo", example=[1.0, 2.0])
    client.deploy("echo")
    stack.wait_ready("echo")
    key = client.keys.create("streams", scopes=["call"])
    small = threading.Event()
    answers: list[int] = []

    def keep_asking() -> None:
        while not small.is_set():
            answers.append(stack.request("POST", "/predict/echo", {"x": [1.0, 2.0]})[0])

    streams = []
    for _ in range(4):
        streams.append(endless(stack, key.token))
    for stream in streams:
        stream.readline()
    asking = threading.Thread(target=keep_asking)
    asking.start()
    (victim,) = stack.replica_pids("smollm2")
    stack.kill(victim)
    killed, pieces = time.monotonic(), 0
    for stream in streams:
        *told, last = [line for line in stream.read().split(b"\n") if line.startswith(b"data:")]
        assert b'"error"' in last, last
        pieces += len(told)
    assert time.monotonic() - killed <= STREAM_ENDED_S
    stack.wait_ready("smollm2")
    assert stack.replica_pids("smollm2") != [victim]
    small.set()
    asking.join()
    assert len(answers) > 10 and set(answers) == {200}

    def metered() -> int:
        return sum(u["completion_tokens"] for u in client.usage(key=key.key.id))

    # Who read them pays, though the engine that counts is gone.
    assert wait_until(metered) >= pieces > 0
    assert "Paris" in client.predict("smollm2", prompt=QUESTION)["text"]


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
