"""Sides of the generation benchmark: the bare engine, a replica, and a gateway with a replica."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec
import psutil
import uvloop

import maas
from benchmarks.harness.generation_load import END_TOKENS, checked_count, messages
from benchmarks.harness.openmaas import maas_command
from benchmarks.harness.processes import free_port, status_of
from maas.client.load_test.connection import Address, LoadConnection
from maas.domain.errors import MaasError
from maas.domain.generation import Ending, Generation, Piece
from maas.domain.models import Variant
from maas.serving.routing.dispatch import ReplicaLink
from maas.serving.routing.generation_call import GenerationCall
from maas.settings import child_environment

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 600.0


@dataclass(frozen=True)
class RunRequest:
    """Number of requests and concurrency of a run; every answer has `tokens` tokens."""

    concurrency: int
    requests: int
    first: int
    """Number of the first prompt."""
    tokens: int


@dataclass(frozen=True)
class RunResult:
    """Duration of a run, and the waiting times in it."""

    seconds: float
    waits: list[float]
    """Seconds to the first text of each request."""


class Side(Protocol):
    """One way to generate text that the benchmark compares."""

    pids: list[int]
    """Processes that do the work, without the one that sends requests."""

    def run(self, request: RunRequest) -> RunResult: ...


# -- bare ------------------------------------------------------------------------------------


class BareEngine:
    """The engine in a process of its own (`bare_engine.py`)."""

    def __init__(self, engine: str, model: Path, threads: int, slots: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.harness.bare_engine", engine, model, str(threads),
             str(slots)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            cwd=ROOT, env=child_environment(),
        )  # fmt: skip
        self.pids = [self._process.pid]
        self._line()

    def run(self, request: RunRequest) -> RunResult:
        fields = (request.concurrency, request.requests, request.first, request.tokens)
        if self._process.stdin is not None:
            print(*fields, file=self._process.stdin, flush=True)
        return RunResult(*json.loads(self._line()))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _line(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise SystemExit("the process of the bare engine exited")
        return line


# -- OpenMaaS --------------------------------------------------------------------------------


@contextlib.contextmanager
def platform(model: Path, engines: list[str], threads: int) -> Iterator[dict[str, dict[str, Side]]]:
    """`maas up` with defaults and a deployment per engine.

    Yields for each engine its replica, called over its socket as by a gateway, and the gateway.
    """
    with tempfile.TemporaryDirectory(prefix="b") as folder:
        port = free_port()
        home = Path(folder) / "h"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MAAS_")}
        environment |= {"MAAS_HOME": str(home), "MAAS_SERVER__PORT": str(port)}
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(
                [*maas_command(), "up"], env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            _wait(lambda: status_of(port, "/readyz") == 200, "maas up")
            key = (home / "admin.key").read_text().strip()
            with contextlib.closing(
                maas.Client(base_url=f"http://127.0.0.1:{port}", api_key=key)
            ) as client:
                _deploy(client, model, engines, threads)
                address = Address.of(client._transport.endpoint)
            yield {e: _sides(home, process.pid, e, address) for e in engines}
        finally:
            process.terminate()
            process.wait()


def _deploy(client: maas.Client, model: Path, engines: list[str], threads: int) -> None:
    client.pull(str(model), name="smollm2")
    base = client.models.version("smollm2").version.variant(None)
    for engine in engines:
        variant = base if engine == base.runtime else Variant(engine, engine, base.files)
        if variant is not base:
            client.add_variant("smollm2:1", variant)
        client.deploy(
            engine.replace("_", "-"), model="smollm2", variant=variant.name, threads=threads
        )


def _sides(home: Path, supervisor: int, engine: str, address: Address) -> dict[str, Side]:
    name = engine.replace("_", "-")
    specs = (home / "run" / "replicas").glob("*.json")
    spec = next(p for p in specs if json.loads(p.read_text())["deployment"] == name)
    replica, gateways = [], []
    for process in psutil.Process(supervisor).children(recursive=True):
        command = process.cmdline()
        if str(spec) in command:
            replica.append(process.pid)
        if "maas.processes.gateway" in command:
            gateways.append(process.pid)
    socket = json.loads(spec.read_text())["socket"]
    gateway = Gateway(name, engine, address, [*replica, *gateways])
    return {"replica": Replica(socket, engine, replica), "gateway": gateway}


def _wait(is_ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not is_ready():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} is not ready")
        time.sleep(0.05)


class Replica:
    """A replica called over its socket, as by a gateway."""

    def __init__(self, socket: str, engine: str, pids: list[int]) -> None:
        self._socket = socket
        self._end_tokens = dict.fromkeys(END_TOKENS[engine], -100.0)
        self.pids = pids

    def run(self, request: RunRequest) -> RunResult:
        return uvloop.run(self._run(request))

    async def _run(self, request: RunRequest) -> RunResult:
        link = await ReplicaLink.connect(self._socket)

        async def one(number: int) -> float:
            call = _Call(
                Generation(
                    messages(number), max_tokens=request.tokens, temperature=0.0,
                    logit_bias=self._end_tokens,
                )
            )  # fmt: skip
            link.submit(call)
            checked_count((await call.ending).completion_tokens, request.tokens)
            return call.first - call.start

        result = await _closed_loop(request, [one] * request.concurrency)
        link.close()
        return result


class _Call(GenerationCall):
    """A call that records the time of its first text, and its ending."""

    __slots__ = ("ending", "first", "start")

    def __init__(self, generation: Generation) -> None:
        super().__init__(generation, time.monotonic() + TIMEOUT_S)
        self.start, self.first = time.perf_counter(), 0.0
        self.ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    def generated(self, piece: Piece) -> None:
        if not self.first and piece.text:
            self.first = time.perf_counter()

    def ended(self, ending: Ending) -> None:
        self.ending.set_result(ending)

    def failed(self, error: MaasError) -> None:
        self.ending.set_exception(error)


class Gateway:
    """The gateway called as by clients: streamed chat completions with a key and usage."""

    def __init__(self, name: str, engine: str, address: Address, pids: list[int]) -> None:
        self._name = name
        self._address = address
        self._end_tokens = {str(token): -100 for token in END_TOKENS[engine]}
        self.pids = pids

    def run(self, request: RunRequest) -> RunResult:
        return uvloop.run(self._run(request))

    async def _run(self, request: RunRequest) -> RunResult:
        connections = [LoadConnection(self._address) for _ in range(request.concurrency)]
        for connection in connections:
            await connection.connect()

        async def one(connection: LoadConnection, number: int) -> float:
            body = {
                "model": self._name, "messages": messages(number), "max_tokens": request.tokens,
                "temperature": 0, "logit_bias": self._end_tokens, "stream": True,
                "stream_options": {"include_usage": True},
            }  # fmt: skip
            stream = _Stream()
            await connection.send(
                self._address.post("/v1/chat/completions", msgspec.json.encode(body)), stream.feed
            )
            checked_count(stream.tokens, request.tokens)
            return stream.first - stream.start

        result = await _closed_loop(
            request, [partial(one, connection) for connection in connections]
        )
        for connection in connections:
            connection.close()
        return result


class _Stream:
    """Reads the time of the first text and the number of tokens of a stream, and nothing else."""

    def __init__(self) -> None:
        self.start, self.first, self.tokens = time.perf_counter(), 0.0, 0
        self._tail = b""

    def feed(self, data: bytes) -> None:
        # All events of a tick arrive together, but an event may be split.
        data = self._tail + data
        events = data.split(b"\n\n")
        self._tail = events.pop()
        for event in events:
            if self.first and b'"usage":{' not in event:
                continue
            if event == b"data: [DONE]":
                continue
            chunk = msgspec.json.decode(event[6:])
            if not self.first and any(c["delta"].get("content") for c in chunk["choices"]):
                self.first = time.perf_counter()
            if chunk.get("usage"):
                self.tokens = chunk["usage"]["completion_tokens"]


async def _closed_loop(request: RunRequest, callers: list[Any]) -> RunResult:
    """Runs all requests; each caller waits for its answer before its next request."""
    numbers = iter(range(request.first, request.first + request.requests))
    waits: list[float] = []

    async def send_requests(one: Any) -> None:
        for number in numbers:
            waits.append(await one(number))

    start = time.perf_counter()
    await asyncio.gather(*(send_requests(one) for one in callers))
    return RunResult(time.perf_counter() - start, waits)
