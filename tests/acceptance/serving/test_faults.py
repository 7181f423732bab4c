"""Processes are killed under load: the others go on, and the killed ones are replaced."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.clients.load import LoadTarget, Report, closed_loop, run_load
from tests.support.models.onnx import echo_model, echo_signature
from tests.support.servers.maas import Stack, readyz, running, wait_until

HANG_SECONDS = 10.0
"""Upper bound of a recovery. benchmarks/start_and_memory.py measures the real time."""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A server with the deployments `one` and `other`, which echo."""
    home = tmp_path_factory.mktemp("h")
    with running(home) as stack:
        client = stack.client()
        example = echo_signature().example["x"]
        path = echo_model(home / "echo.onnx")
        client.publish(path, name="echo", example=example)
        client.deploy("one", model="echo")
        client.deploy("other", model="echo")
        yield stack


def target(stack: Stack, name: str) -> LoadTarget:
    return LoadTarget(stack.port, f"/predict/{name}", stack.token)


async def under_load(
    stack: Stack, seconds: float, fault: list[tuple[float, int]], first: int = 0
) -> tuple[Report, Report]:
    """Put load on both deployments; `fault` has (seconds from the start, pid to kill)."""

    async def kill() -> None:
        started = time.monotonic()
        for after, pid in fault:
            await asyncio.sleep(max(0.0, started + after - time.monotonic()))
            stack.kill(pid)

    killing = asyncio.ensure_future(kill())
    one, other = await asyncio.gather(
        closed_loop(target(stack, "one"), 48, seconds, first=first),
        closed_loop(target(stack, "other"), 16, seconds, first=first + (1 << 30)),
    )
    await killing
    return one, other


def longest_silence(report: Report, since: float) -> float:
    """The longest time without a good answer, seconds, from `since` (monotonic) on."""
    times = [since, *(at for at, outcome in report.finished if outcome == "200" and at > since)]
    return max(b - a for a, b in pairwise(times))


def _replaced(stack: Stack, crashed: int) -> bool:
    return stack.replica_pids("one") not in ([], [crashed])


def test_a_replica_killed_under_load_is_replaced_and_answers_match_requests(
    two: Stack,
) -> None:
    total = 0
    first = 0
    for _ in range(40):
        (victim,) = two.replica_pids("one")
        began = time.monotonic()
        one, other = run_load(under_load(two, 6.0, [(2.0, victim)], first))
        first += 1 << 22
        assert other.errors() == {}
        assert one.mismatches == other.mismatches == 0
        assert one.unanswered == other.unanswered == 0
        assert set(one.errors()) <= {"503"}
        assert longest_silence(one, began + 1.9) <= HANG_SECONDS
        wait_until(partial(_replaced, two, victim), 10)
        total += one.total + other.total
        if total >= 100_000:
            break
    assert total >= 100_000


def test_control_killed_under_load_goes_unnoticed_and_adopts_replicas(two: Stack) -> None:
    before = {name: two.replica_pids(name) for name in ("one", "other")}
    (control,) = two.pids("control")
    one, other = run_load(under_load(two, 6.0, [(1.0, control)]))
    assert one.errors() == other.errors() == {}
    assert one.mismatches == one.unanswered == 0

    def back() -> bool:
        return (
            two.pids("control") not in ([], [control])
            and two.request("GET", "/api/v1/status")[0] == 200
        )

    wait_until(back, 10, "control is back")
    assert {name: two.replica_pids(name) for name in ("one", "other")} == before
    # Control is in charge again: its changes take effect.
    two.client().deploy("other", model="echo", replicas=2)
    wait_until(lambda: len(two.replica_pids("other")) == 2, 15)
    two.client().deploy("other", model="echo", replicas=1)
    wait_until(lambda: len(two.replica_pids("other")) == 1, 15)


def test_a_gateway_killed_under_load_is_replaced(two: Stack) -> None:
    (gateway,) = two.pids("gateway")
    replicas = two.replica_pids("one")
    began = time.monotonic()
    one, _ = run_load(under_load(two, 5.0, [(1.0, gateway)]))
    assert set(one.errors()) <= {"lost", "503"}
    assert one.mismatches == one.unanswered == 0
    assert longest_silence(one, began + 0.9) <= HANG_SECONDS
    assert two.replica_pids("one") == replicas


def test_usage_is_exact_after_crashes(two: Stack) -> None:
    client = two.client()
    key = client.keys.create("counted", scopes=["call"])
    token, key_id = key.token, key.key.id
    wait_until(lambda: two.request("GET", "/v2", token=token)[0] == 200)
    answered = refused = 0
    for module in ("gateway", "control", "gateway"):
        (victim,) = two.pids(module)

        async def load(pid: int = victim) -> Report:
            counted = LoadTarget(two.port, "/predict/one", token)
            asyncio.get_running_loop().call_later(0.7, two.kill, pid)
            return await closed_loop(counted, 8, 2.0)

        report = run_load(load())
        answered += report.outcomes["200"]
        refused += report.outcomes["lost"]
        wait_until(lambda: readyz(two.port) == 200)

    def recorded() -> int:
        status, _, _ = two.request("GET", "/api/v1/status")
        if status != 200:
            return -1
        return sum(u["requests"] for u in client.usage(key=key_id))

    # If a gateway is killed, an answer may be counted and not reach its client. So usage is between
    # the answers that clients received and the requests that they sent, and does not change.
    wait_until(lambda: answered <= recorded() <= answered + refused, 10, "usage recorded")
    time.sleep(2.5)
    final = recorded()
    assert answered <= final <= answered + refused
    (gateway,) = two.pids("gateway")
    two.kill(gateway, signal.SIGKILL)
    wait_until(lambda: readyz(two.port) == 200)
    time.sleep(1.5)
    assert recorded() == final


def test_killing_the_supervisor_ends_all_processes(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    home: Path = tmp_path_factory.mktemp("h")
    with running(home) as stack:
        client = stack.client()
        client.publish(echo_model(home / "echo.onnx"), name="echo", example=[1.0, 2.0])
        client.deploy("echo", model="echo")
        stack.kill(stack.supervisor.pid)
        stack.supervisor.wait()
        wait_until(lambda: not stack.processes(), 45, "all processes gone")
