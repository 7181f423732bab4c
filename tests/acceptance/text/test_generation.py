"""A language model as a deployment: /predict, and replicas killed while they generate."""

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
from tests.support.fakes.generations import TextCall, has_pieces
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
        # Several threads would wait for each other, long on a machine that is busy.
        client.deploy("smollm2", max_batch=8, threads=1)
        started.wait_ready("smollm2")
        yield started


def with_target(stack: Stack, use: Callable[[LiveTarget], Awaitable[None]]) -> None:
    """Run `use` with the deployment's target, as in a gateway."""

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


def test_a_prompt_is_answered(stack: Stack) -> None:
    client = stack.client()
    statistics: list[dict[str, Any]] = []
    kinds = ("prompt_tokens", "completion_tokens")

    async def count(target: LiveTarget) -> None:
        link = target._least_busy()
        assert link is not None
        statistics.append(await link.ping(5))

    def used() -> list[int]:
        rows = client.usage(deployment="smollm2")
        return [sum(row[kind] for row in rows) for kind in kinds]

    with_target(stack, count)
    assert "Paris" in client.predict("smollm2", prompt=QUESTION)["text"]
    several = client.predict("smollm2", prompt=[QUESTION, "Say hello."])["text"]
    assert len(several) == 2 and "Paris" in several[0] and several[1]
    with_target(stack, count)
    before, after = statistics
    spent = [after[kind] - before[kind] for kind in kinds]
    wait_until(lambda: used() == spent, 30, f"every token of {spent} is in the ledger")
    assert all(spent)


def test_other_scaling_keeps_its_defaults(stack: Stack) -> None:
    cores = len(os.sched_getaffinity(0))
    view = stack.client().deploy("usual", model="smollm2", replicas=0, wait_s=0)
    assert view.deployment.scaling == Scaling(replicas=0, max_batch=32, threads=cores)
    stack.client().deployments.delete("usual")


def test_concurrent_generations_are_independent(stack: Stack) -> None:
    async def use(target: LiveTarget) -> None:
        words = ["apple", "river", "seven", "winter", "music", "paper", "garden", "yellow", "horse"]
        calls = [
            TextCall(
                prompt=f"The word is {word}. " * 4 + "The word is", max_tokens=2, temperature=0.0
            )
            for word in words
        ]
        for call in calls:
            target.generate(call)
        for word, call in zip(words, calls, strict=True):
            assert (await call.over(60)).text == f" {word}."
            assert call.ending.completion_tokens == call.completion_tokens == 2

    with_target(stack, use)


def test_every_token_is_counted_wherever_calls_are_cancelled(stack: Stack) -> None:
    async def use(target: LiveTarget) -> None:
        link = target._least_busy()
        assert link is not None
        before = await link.ping(5)
        calls = [TextCall(f"Tell a story of {n}.", seconds=120.0, max_tokens=12) for n in range(24)]
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

    with_target(stack, use)


def test_a_cancelled_answer_frees_its_slot_within_a_second(stack: Stack) -> None:
    async def use(target: LiveTarget) -> None:
        call = TextCall("Write on and on.", logit_bias={0: -100.0, 2: -100.0})
        target.generate(call)
        await until(has_pieces(call, 3), 30)
        cancelled = time.monotonic()
        target.cancel_generation(call)
        await call.over()
        assert time.monotonic() - cancelled <= SLOT_FREED_S

    with_target(stack, use)


def endless(stack: Stack, token: str) -> http.client.HTTPResponse:
    """A stream of 500 tokens."""
    request = {
        "model": "smollm2", "messages": [{"role": "user", "content": "Write on."}],
        "stream": True, "max_tokens": 500, "logit_bias": {"0": -100, "2": -100},
    }  # fmt: skip
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=60)
    connection.request("POST", "/v1/chat/completions", json.dumps(request), headers)
    return connection.getresponse()


def test_a_revoked_key_ends_its_stream(stack: Stack) -> None:
    keys = stack.client().keys
    revoked, valid = (keys.create(name, scopes=["call"]) for name in ("revoked", "valid"))
    lost, other = (endless(stack, key.token) for key in (revoked, valid))
    for stream in (lost, other):
        stream.readline()
    keys.revoke(revoked.key.id)
    rest = lost.read()
    assert b"this key was revoked" in rest and rest.count(b"data:") < 500
    assert other.readline() == b"\n" and other.readline().startswith(b'data: {"id"')
    other.close()


def test_a_killed_engine_ends_only_its_own_streams(stack: Stack, tmp_path: Path) -> None:
    client = stack.client()
    client.publish(echo_model(tmp_path / "echo.onnx"), name="echo", example=[1.0, 2.0])
    client.deploy("echo")
    stack.wait_ready("echo")
    key = client.keys.create("streams", scopes=["call"])
    is_over = threading.Event()
    answers: list[int] = []

    def predict_repeatedly() -> None:
        while not is_over.is_set():
            answers.append(stack.request("POST", "/predict/echo", {"x": [1.0, 2.0]})[0])

    streams = []
    for _ in range(4):
        streams.append(endless(stack, key.token))
    for stream in streams:
        stream.readline()
    thread = threading.Thread(target=predict_repeatedly)
    thread.start()
    (victim,) = stack.replica_pids("smollm2")
    stack.kill(victim)
    killed, pieces = time.monotonic(), 0
    for stream in streams:
        *events, last = [line for line in stream.read().split(b"\n") if line.startswith(b"data:")]
        assert b'"error"' in last, last
        pieces += len(events)
    assert time.monotonic() - killed <= STREAM_ENDED_S
    stack.wait_ready("smollm2")
    assert stack.replica_pids("smollm2") != [victim]
    is_over.set()
    thread.join()
    assert len(answers) > 10 and set(answers) == {200}

    def metered() -> int:
        return sum(u["completion_tokens"] for u in client.usage(key=key.key.id))

    # The tokens received are metered although the engine that counts them was killed.
    assert wait_until(metered) >= pieces > 0
    assert "Paris" in client.predict("smollm2", prompt=QUESTION)["text"]


def test_the_reason_is_shown_if_llama_cpp_cannot_load_a_file(stack: Stack, tmp_path: Path) -> None:
    """A valid header of an unknown architecture."""
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
