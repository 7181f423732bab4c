"""Clients of a real model that disconnect: their slots become free, and all tokens are metered."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import threading
import time
from typing import Any

import psutil

from maas.serving.routing.dispatch import ReplicaLink
from tests.support.servers.maas import SLOT_FREED_S, Stack, wait_until
from tests.support.servers.text import TEXT_MODEL

STREAMS, DISCONNECTING = 64, 0.3
ROUNDS = {False: 2, True: 10}
"""By whether the test runs at full size."""


def engine(stack: Stack) -> dict[str, Any]:
    """The replica's statistics."""
    status = stack.client().status()
    (deployment,) = (d for d in status["deployments"] if d["name"] == TEXT_MODEL)
    (replica,) = deployment["replicas"]

    async def ask() -> dict[str, Any]:
        link = await ReplicaLink.connect(replica["socket"])
        try:
            return await link.ping(5.0)
        finally:
            link.close()

    return asyncio.run(ask())


def metered(stack: Stack) -> tuple[int, int]:
    """Prompt tokens and completion tokens in the gateway's metrics."""
    _, _, text = stack.request("GET", "/metrics")
    lines = [line.rsplit(" ", 1) for line in text.decode().splitlines() if line[0] != "#"]
    return tuple(
        sum(int(value) for name, value in lines if name.startswith(f"maas_generation_{kind}_total"))
        for kind in ("prompt_tokens", "completion_tokens")
    )  # type: ignore[return-value]


class Client(threading.Thread):
    """A client that disconnects after a number of lines, or stays to the end."""

    def __init__(self, stack: Stack, number: int, lines_to_read: int | None) -> None:
        super().__init__()
        self._stack = stack
        self._number = number
        self._lines_to_read = lines_to_read
        self.text = b""

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._stack.port, timeout=120)
        request = {
            "model": TEXT_MODEL,
            "messages": [{"role": "user", "content": f"Count to {self._number}"}],
            "max_tokens": 10,
            "seed": self._number,
            "stream": self._number % 8 != 0,
        }
        headers = {
            "Authorization": f"Bearer {self._stack.token}",
            "Content-Type": "application/json",
        }
        connection.request("POST", "/v1/chat/completions", json.dumps(request), headers)
        if self._lines_to_read == 0:
            time.sleep(random.Random(self._number).uniform(0, 0.5))
        else:
            response = connection.getresponse()
            lines = 0
            while line := response.readline():
                self.text += line
                lines += 1
                if self._lines_to_read is not None and lines >= self._lines_to_read:
                    break
        connection.close()


def test_a_disconnect_frees_the_slot_and_is_metered(served: Stack, full_size: bool) -> None:
    before, start = metered(served), engine(served)
    generator = random.Random(5)
    (gateway,) = served.pids("gateway")
    sizes, threads, files = [], [], []
    for _ in range(ROUNDS[full_size]):
        clients = []
        for number in range(STREAMS):
            disconnects = generator.random() < DISCONNECTING
            lines = generator.randrange(0, 12) if disconnects else None
            clients.append(Client(served, number, lines))
        for client in clients:
            client.start()
        for client in clients:
            client.join(120)
            assert not client.is_alive()
        for client in clients:
            if client._lines_to_read is None:
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
    # The memory of 32 sequences is touched for the first time in the first rounds.
    assert sizes[-1] < sizes[1 if full_size else 0] + (32 << 20)
    assert threads[-1] <= threads[0] and files[-1] <= files[0]


def test_usage_reaches_the_ledger(served: Stack) -> None:
    tokens = metered(served)

    def ledger() -> tuple[int, int]:
        usages = [u for u in served.client().usage() if u["operation"] == "chat"]
        return sum(u["prompt_tokens"] for u in usages), sum(u["completion_tokens"] for u in usages)

    wait_until(lambda: ledger() == tokens, 30.0, "the ledger has every token")


def test_a_queued_request_of_a_disconnected_client_generates_nothing(served: Stack) -> None:
    """Requests beyond the slots wait; they cost nothing if their clients disconnect."""
    start = engine(served)
    request = {
        "model": TEXT_MODEL, "messages": [{"role": "user", "content": "Tell me a story."}],
        "max_tokens": 200, "seed": 1,
    }  # fmt: skip
    headers = {"Authorization": f"Bearer {served.token}", "Content-Type": "application/json"}
    connections = []
    for _ in range(60):
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        connection.request("POST", "/v1/chat/completions", json.dumps(request), headers)
        connections.append(connection)
    wait_until(lambda: engine(served)["queued"] > 0, what="some requests wait")
    for connection in connections:
        connection.close()
    wait_until(
        lambda: engine(served)["running"] == engine(served)["queued"] == 0,
        5.0,
        "no request is left",
    )
    end = engine(served)
    assert end["completion_tokens"] - start["completion_tokens"] < 60 * 200
