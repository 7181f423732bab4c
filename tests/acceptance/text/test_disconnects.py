"""Clients that hang up on a real model: their slots are free again, and what was written counts."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from maas.serving.routing.dispatch import ReplicaLink
from tests.support.servers.maas import SLOT_FREED_S, Stack, running, wait_until
from tests.support.servers.text import WRITER, deploy_writer

STREAMS, LEAVE = 64, 0.3
ROUNDS = {False: 2, True: 10}
"""By whether it runs at full size."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home: Path = tmp_path_factory.mktemp("h")
    with running(home) as stack:
        deploy_writer(stack)
        yield stack


def engine(stack: Stack) -> dict[str, Any]:
    """The replica's own account of itself."""
    status = stack.client().status()
    (deployment,) = (d for d in status["deployments"] if d["name"] == WRITER)
    (replica,) = deployment["replicas"]

    async def ask() -> dict[str, Any]:
        link = await ReplicaLink.connect(replica["socket"])
        try:
            return await link.ping(5.0)
        finally:
            link.close()

    return asyncio.run(ask())


def metered(stack: Stack) -> tuple[int, int]:
    """Tokens read and written, as the gateway's metrics say."""
    _, _, text = stack.request("GET", "/metrics")
    lines = [line.rsplit(" ", 1) for line in text.decode().splitlines() if line[0] != "#"]
    return tuple(
        sum(int(value) for name, value in lines if name.startswith(f"maas_generation_{kind}_total"))
        for kind in ("prompt_tokens", "completion_tokens")
    )  # type: ignore[return-value]


class Client(threading.Thread):
    """One stream; leaves after some events if it is told so."""

    def __init__(self, stack: Stack, number: int, stays_for: int | None) -> None:
        super().__init__()
        self._stack = stack
        self._number = number
        self._stays_for = stays_for
        self.text = b""

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._stack.port, timeout=120)
        asked = {
            "model": WRITER, "messages": [{"role": "user", "content": f"Count to {self._number}"}],
            "max_tokens": 10, "seed": self._number, "stream": self._number % 8 != 0,
        }  # fmt: skip
        headers = {
            "Authorization": f"Bearer {self._stack.token}",
            "Content-Type": "application/json",
        }
        connection.request("POST", "/v1/chat/completions", json.dumps(asked), headers)
        if self._stays_for == 0:
            time.sleep(random.Random(self._number).uniform(0, 0.5))
        else:
            answer = connection.getresponse()
            lines = 0
            while line := answer.readline():
                self.text += line
                lines += 1
                if self._stays_for is not None and lines >= self._stays_for:
                    break
        connection.close()


def test_who_hangs_up_frees_its_slot_and_pays(served: Stack, full_size: bool) -> None:
    before, start = metered(served), engine(served)
    choose = random.Random(5)
    (gateway,) = served.pids("gateway")
    sizes, threads, files = [], [], []
    for _ in range(ROUNDS[full_size]):
        clients = [
            Client(served, n, choose.randrange(0, 12) if choose.random() < LEAVE else None)
            for n in range(STREAMS)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join(120)
            assert not client.is_alive()
        for client in clients:
            if client._stays_for is None:
                whole = client.text.endswith(b"data: [DONE]\n\n") or b'"usage"' in client.text
                assert whole, client.text[-300:]
        wait_until(lambda: engine(served)["running"] == 0, SLOT_FREED_S, "every slot is free")
        sizes.append(psutil.Process(gateway).memory_info().rss + engine(served)["rss_bytes"])
        threads.append(psutil.Process(engine(served)["pid"]).num_threads())
        files.append(psutil.Process(gateway).num_fds())
    end = engine(served)
    assert end["queued"] == end["running"] == 0
    counted = tuple(end[k] - start[k] for k in ("prompt_tokens", "completion_tokens"))
    wait_until(
        lambda: tuple(b - a for a, b in zip(before, metered(served), strict=True)) == counted,
        what=f"{metered(served)} since {before}; the engine counted {counted}",
    )
    assert counted[1] > 0
    print(f"{counted} tokens metered and counted; MiB after each round",
          *(size >> 20 for size in sizes))  # fmt: skip
    # What is kept for 32 sequences is touched for the first time in the first rounds.
    assert sizes[-1] < sizes[1 if full_size else 0] + (32 << 20)
    assert threads[-1] <= threads[0] and files[-1] <= files[0]


def test_usage_reaches_the_ledger(served: Stack) -> None:
    wanted = metered(served)

    def ledger() -> tuple[int, int]:
        usages = [u for u in served.client().usage() if u["operation"] == "chat"]
        return sum(u["prompt_tokens"] for u in usages), sum(u["completion_tokens"] for u in usages)

    wait_until(lambda: ledger() == wanted, 30.0, "the ledger has every token")


def test_a_queued_request_whose_client_leaves_is_never_written(served: Stack) -> None:
    """More than there are slots: those that wait and leave cost nothing at all."""
    start = engine(served)
    asked = {
        "model": WRITER, "messages": [{"role": "user", "content": "Tell me a story."}],
        "max_tokens": 200, "seed": 1,
    }  # fmt: skip
    headers = {"Authorization": f"Bearer {served.token}", "Content-Type": "application/json"}
    connections = []
    for _ in range(60):
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        connection.request("POST", "/v1/chat/completions", json.dumps(asked), headers)
        connections.append(connection)
    wait_until(lambda: engine(served)["queued"] > 0, what="some wait")
    for connection in connections:
        connection.close()
    wait_until(
        lambda: engine(served)["running"] == engine(served)["queued"] == 0, 5.0, "all is over"
    )
    end = engine(served)
    assert end["completion_tokens"] - start["completion_tokens"] < 60 * 200
