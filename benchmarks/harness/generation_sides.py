"""The sides of the generation benchmark: an engine bare, a replica, and a gateway before it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import psutil
import uvloop

import maas
from harness.openmaas import maas_command
from harness.processes import free_port, status_of
from harness.generation_load import ENDS, checked_count, messages
from maas.client.load.connections import Address, LoadConnection
from maas.domain.errors import MaasError
from maas.domain.generation import Ending, Generation, Piece
from maas.domain.models import Variant
from maas.serving.routing.dispatch import ReplicaLink
from maas.serving.routing.generation_call import GenerationCall
from maas.settings import child_environment

HERE = Path(__file__).resolve().parents[1]
PATIENCE_S = 600.0


@dataclass(frozen=True)
class Asked:
    """So many requests, so many of them at once, all of `tokens` tokens."""

    concurrency: int
    requests: int
    first: int
    """The number of the first prompt."""
    tokens: int


@dataclass(frozen=True)
class Told:
    seconds: float
    waits: list[float]
    """To the first text, in seconds."""


class Side(Protocol):
    pids: list[int]
    """The processes that do the work; the one that asks is not among them."""

    def run(self, asked: Asked) -> Told: ...


# -- bare ------------------------------------------------------------------------------------


class Bare:
    def __init__(self, engine: str, model: Path, threads: int, slots: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "harness.bare_engine", engine, model, str(threads), str(slots)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            cwd=HERE, env=child_environment(),
        )  # fmt: skip
        self.pids = [self._process.pid]
        self._line()

    def run(self, asked: Asked) -> Told:
        told = (asked.concurrency, asked.requests, asked.first, asked.tokens)
        if self._process.stdin is not None:
            print(*told, file=self._process.stdin, flush=True)
        return Told(*json.loads(self._line()))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _line(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise SystemExit("the bare engine ended")
        return line


# -- OpenMaaS --------------------------------------------------------------------------------


@contextlib.contextmanager
def platform(model: Path, engines: list[str], threads: int) -> Iterator[dict[str, dict[str, Side]]]:
    """`maas up` as delivered, with a deployment per engine; by engine its replica, asked over its
    socket as a gateway asks, and the same replica behind the gateway."""
    with tempfile.TemporaryDirectory(prefix="b") as folder:
        port = free_port()
        home = Path(folder) / "h"
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MAAS_")}
        told = {"MAAS_HOME": str(home), "MAAS_SERVER__PORT": str(port)}
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(
                [*maas_command(), "up"], env=kept | told, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            _wait(lambda: status_of(port, "/readyz") == 200, "maas up")
            key = (home / "admin.key").read_text().strip()
            with contextlib.closing(
                maas.Client(base_url=f"http://127.0.0.1:{port}", api_key=key)
            ) as client:
                _deploy(client, model, engines, threads)
                address = Address.of(client._transport.connection)
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
    found = next(p for p in specs if json.loads(p.read_text())["deployment"] == name)
    replica, gateways = [], []
    for process in psutil.Process(supervisor).children(recursive=True):
        command = process.cmdline()
        replica += [process.pid] if str(found) in command else []
        gateways += [process.pid] if "maas.processes.gateway" in command else []
    socket = json.loads(found.read_text())["socket"]
    gateway = Gateway(name, engine, address, [*replica, *gateways])
    return {"replica": Replica(socket, engine, replica), "gateway": gateway}


def _wait(is_there: Any, what: str) -> None:
    ends = time.monotonic() + 60
    while not is_there():
        if time.monotonic() > ends:
            raise SystemExit(f"{what} is not ready")
        time.sleep(0.05)


class Replica:
    def __init__(self, socket: str, engine: str, pids: list[int]) -> None:
        self._socket = socket
        self._ends = dict.fromkeys(ENDS[engine], -100.0)
        self.pids = pids

    def run(self, asked: Asked) -> Told:
        return uvloop.run(self._run(asked))

    async def _run(self, asked: Asked) -> Told:
        link = await ReplicaLink.connect(self._socket)

        async def one(number: int) -> float:
            call = _Call(
                Generation(
                    messages(number), max_tokens=asked.tokens, temperature=0.0,
                    logit_bias=self._ends,
                )
            )  # fmt: skip
            link.submit(call)
            checked_count((await call.over).completion_tokens, asked.tokens)
            return call.first - call.began

        told = await _in_turns(asked, [one] * asked.concurrency)
        link.close()
        return told


class _Call(GenerationCall):
    """Notes when its first text came, and its end."""

    __slots__ = ("began", "first", "over")

    def __init__(self, wanted: Generation) -> None:
        super().__init__(wanted, time.monotonic() + PATIENCE_S)
        self.began, self.first = time.perf_counter(), 0.0
        self.over: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    def wrote(self, piece: Piece) -> None:
        if not self.first and piece.text:
            self.first = time.perf_counter()

    def ended(self, ending: Ending) -> None:
        self.over.set_result(ending)

    def failed(self, error: MaasError) -> None:
        self.over.set_exception(error)


class Gateway:
    """Asked as its clients do: chat completions with a key, streamed, with usage at the end."""

    def __init__(self, name: str, engine: str, address: Address, pids: list[int]) -> None:
        self._name = name
        self._address = address
        self._ends = {str(token): -100 for token in ENDS[engine]}
        self.pids = pids

    def run(self, asked: Asked) -> Told:
        return uvloop.run(self._run(asked))

    async def _run(self, asked: Asked) -> Told:
        lines = [LoadConnection(self._address) for _ in range(asked.concurrency)]
        for line in lines:
            await line.connect()

        async def one(line: LoadConnection, number: int) -> float:
            body = {
                "model": self._name, "messages": messages(number), "max_tokens": asked.tokens,
                "temperature": 0, "logit_bias": self._ends, "stream": True,
                "stream_options": {"include_usage": True},
            }  # fmt: skip
            stream = _Stream()
            await line.ask(
                self._address.post("/v1/chat/completions", msgspec.json.encode(body)), stream.take
            )
            checked_count(stream.used, asked.tokens)
            return stream.first - stream.began

        told = await _in_turns(asked, [lambda number, li=line: one(li, number) for line in lines])
        for line in lines:
            line.close()
        return told


class _Stream:
    """Reads no more of an answer than when its text began, and how many tokens it has."""

    def __init__(self) -> None:
        self.began, self.first, self.used = time.perf_counter(), 0.0, 0
        self._tail = b""

    def take(self, data: bytes) -> None:
        # Every event of a tick comes in one part; an event may still be cut in two.
        data = self._tail + data
        events = data.split(b"\n\n")
        self._tail = events.pop()
        for event in events:
            if self.first and b'"usage":{' not in event:
                continue
            if event == b"data: [DONE]":
                continue
            said = msgspec.json.decode(event[6:])
            if not self.first and any(c["delta"].get("content") for c in said["choices"]):
                self.first = time.perf_counter()
            if said.get("usage"):
                self.used = said["usage"]["completion_tokens"]


async def _in_turns(asked: Asked, callers: list[Any]) -> Told:
    """Each caller waits for its answer before it asks again."""
    numbers = iter(range(asked.first, asked.first + asked.requests))
    waits: list[float] = []

    async def keep_asking(one: Any) -> None:
        for number in numbers:
            waits.append(await one(number))

    began = time.perf_counter()
    await asyncio.gather(*(keep_asking(one) for one in callers))
    return Told(time.perf_counter() - began, waits)
