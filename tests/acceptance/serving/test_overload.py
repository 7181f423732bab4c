"""Overload is bounded: requests are refused, and none is computed for a disconnected client.

benchmarks/overload.py measures how much is answered and how fast the rest is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.clients.load import LoadTarget, Report, closed_loop, open_loop, run_load
from tests.support.models.onnx import echo_model, slow_model
from tests.support.servers.maas import Stack, running

QUEUE_LIMIT = 32


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`slow` answers a few dozen requests a second; `quick` thousands."""
    home: Path = tmp_path_factory.mktemp("h")
    with running(home) as stack:
        client = stack.client()
        client.publish(slow_model(home / "slow.onnx"), name="slow", example=[1.0, 2.0])
        client.publish(echo_model(home / "echo.onnx"), name="echo", example=[1.0, 2.0])
        client.deploy("slow", model="slow", max_batch=1, queue_limit=QUEUE_LIMIT)
        client.deploy("quick", model="echo")
        yield stack


def target(stack: Stack, name: str = "slow") -> LoadTarget:
    return LoadTarget(stack.port, f"/predict/{name}", stack.token)


def served(stack: Stack, name: str) -> int:
    deployments = stack.client().status()["deployments"]
    deployment = next(d for d in deployments if d["name"] == name)
    return sum(int(r["served"]) for r in deployment["replicas"])


def final_count(stack: Stack, name: str) -> int:
    """The served requests once the number is stable; control polls its replicas every second."""
    last = -1
    while (now := served(stack, name)) != last:
        last = now
        time.sleep(2.5)
    return last


def test_ten_times_the_load_is_refused_with_a_message_and_bounded_memory(slow: Stack) -> None:
    peak = run_load(closed_loop(target(slow), 4, 4.0))
    rate = peak.outcomes["200"] / 4.0
    processes = [psutil.Process(p) for p in (*slow.pids("gateway"), *slow.pids("replica"))]
    before = sum(p.memory_info().rss for p in processes)
    over: Report = run_load(open_loop(target(slow), 10 * rate, 6.0, connections=512))
    assert set(over.outcomes) <= {"200", "503", "504"}
    assert over.outcomes["503"] > over.outcomes["200"] > 0
    assert over.without_retry_after == 0
    assert over.mismatches == over.unanswered == 0
    problem = json.loads(over.samples["503"])
    assert problem["code"] == "overloaded"
    assert "waiting" in problem["detail"] or "deadline" in problem["detail"]
    grown = sum(p.memory_info().rss for p in processes) - before
    assert grown < 64 << 20


def test_an_overloaded_deployment_does_not_affect_others(slow: Stack) -> None:
    async def both() -> tuple[Report, Report]:
        flood = open_loop(target(slow), 500, 4.0, connections=256)
        calm = open_loop(target(slow, "quick"), 50, 4.0, connections=8, first=1 << 25)
        return tuple(await asyncio.gather(flood, calm))  # type: ignore[return-value]

    flooded, calm = run_load(both())
    assert flooded.outcomes["503"] > 0
    assert calm.errors() == {}


def test_requests_of_disconnected_clients_are_not_computed(slow: Stack) -> None:
    before = final_count(slow, "slow")
    request = target(slow).request(7)
    clients = []
    for _ in range(QUEUE_LIMIT - 4):
        client = socket.create_connection(("127.0.0.1", slow.port))
        client.sendall(request)
        clients.append(client)
    for client in clients:
        client.close()
    computed = final_count(slow, "slow") - before
    # Only requests that were running when their client disconnected may be computed.
    assert computed <= len(clients) // 2, f"{computed} of {len(clients)} were computed in vain"
    status, _, body = slow.request("POST", "/predict/slow", {"x": [1, 2]})
    assert (status, json.loads(body)) == (200, {"y": [1.0, 2.0]})


def test_a_deadline_that_passes_in_the_queue_is_an_error(slow: Stack) -> None:
    final_count(slow, "slow")
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", slow.port)))
            client.sendall(target(slow).request(1))
        status, headers, body = slow.request(
            "POST", "/predict/slow", {"x": [1, 2]}, {"X-Request-Timeout-Ms": "30"}
        )
        assert status in (503, 504), body
        assert json.loads(body)["code"] in ("deadline_exceeded", "overloaded")
        # The error arrives before the last of the earlier requests has an answer.
        assert not select.select([client], [], [], 0)[0]
        assert status == 504 or "retry-after" in headers


@pytest.mark.parametrize("value", ["0", "-1", "abc", "1e3", "9" * 20, "1.5"])
def test_a_timeout_that_is_not_a_number_of_milliseconds_is_refused(slow: Stack, value: str) -> None:
    status, _, body = slow.request(
        "POST", "/predict/quick", {"x": [1, 2]}, {"X-Request-Timeout-Ms": value}
    )
    assert status == 400
    assert "X-Request-Timeout-Ms" in json.loads(body)["detail"]
