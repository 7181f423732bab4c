"""Rounds: every participant in turn, in an order that is rotated and reversed each time."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness import environments, load, machine
from harness.models import Workload
from harness.peers import OUR_NAME, SERVERS, Door, Peer, Running, Site
from harness.processes import ServerFailed, free_port


@dataclass(frozen=True)
class Plan:
    """What is run, for how long and where."""

    rounds: int
    seconds: int
    warmup: int
    server_core: int
    load_core: int
    cache: Path
    connections: Mapping[str, Sequence[int]]
    """By workload."""


@dataclass(frozen=True)
class Entry:
    """A participant with one of its configurations."""

    peer: Peer
    config: str
    python: Path


@dataclass(frozen=True)
class Sample:
    """One door, one number of connections, one round."""

    peer: str
    config: str
    door: str
    workload: str
    connections: int
    round: int
    rps: float
    p50_ms: float
    p99_ms: float
    cpu_s_per_1k: float
    """Processor seconds of the server's whole process tree per 1,000 requests."""
    rss_mib: float
    pss_mib: float
    generator_cpu: float
    foreign_cpu: float
    """Share of the server's core that neither the server nor idling used: somebody else's work."""
    steal: float
    void: str
    """Why this sample does not count, or ''."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def order(entries: Sequence[Entry], number: int) -> list[Entry]:
    """ABBA: forward, then backward, then rotated by one and forward, and so on."""
    shift = number // 2 % len(entries)
    turned = [*entries[shift:], *entries[:shift]]
    return turned[::-1] if number % 2 else turned


def run(
    plan: Plan, entries: Sequence[Entry], works: Mapping[str, Workload], failures: dict[str, str]
) -> Iterator[Sample]:
    """All samples, round by round. A participant that fails is left out from then on, and why is
    put into `failures`."""
    for number in range(plan.rounds):
        for entry in order(entries, number):
            label = f"{entry.peer.title} [{entry.config}]"
            if label in failures:
                continue
            print(f"round {number + 1}/{plan.rounds}: {label}", file=sys.stderr, flush=True)
            try:
                yield from _turn(plan, entry, works, number)
            except ServerFailed as failed:
                failures[label] = str(failed)
                print(f"  left out: {failed}", file=sys.stderr, flush=True)


def _turn(plan: Plan, entry: Entry, works: Mapping[str, Workload], number: int) -> Iterator[Sample]:
    plan.cache.mkdir(parents=True, exist_ok=True)
    doors = [d for d in entry.peer.doors if d.workload in plan.connections]
    with tempfile.TemporaryDirectory(dir=plan.cache, prefix="run-") as folder:
        site = Site(
            python=entry.python,
            port=free_port(),
            spare_port=free_port(),
            options=entry.peer.grid[entry.config],
            models=plan.cache / "models",
            folder=Path(folder),
            log=plan.cache / "logs" / f"{entry.peer.name}.log",
            core=plan.server_core,
        )
        running = entry.peer.start(site)
        try:
            for door in doors:
                yield from _door(plan, entry, running, door, works, number, Path(folder))
        finally:
            running.server.stop()


def _door(
    plan: Plan,
    entry: Entry,
    running: Running,
    door: Door,
    works: Mapping[str, Workload],
    number: int,
    folder: Path,
) -> Iterator[Sample]:
    """Checks the answers, warms up, measures at every number of connections, checks again."""
    request = request_of(running, door, works)
    work = works.get(door.workload)

    def check() -> None:
        if door.dialect and work and not door.grpc:
            load.check_answers(running.port, door.path, door.dialect, work, running.headers)

    check()
    levels = plan.connections[door.workload]
    if not door.grpc and plan.warmup:
        load.run_wrk(
            running.port, request, connections=max(levels), seconds=plan.warmup, folder=folder
        )
    for connections in levels:
        yield _measure(plan, entry, running, door, request, (number, connections, folder), work)
    check()


def request_of(running: Running, door: Door, works: Mapping[str, Workload]) -> load.Request:
    """What the generator sends: the first row, with the headers that this server wants."""
    if door.dialect is None:
        return load.Request("GET", door.path, dict(running.headers), b"")
    work = works[door.workload]
    headers, body = door.dialect.encode(work, work.rows[0])
    return load.Request("POST", door.path, {**headers, **running.headers}, body)


def _measure(
    plan: Plan,
    entry: Entry,
    running: Running,
    door: Door,
    request: load.Request,
    where: tuple[int, int, Path],
    work: Workload | None,
) -> Sample:
    number, connections, folder = where
    server = running.server
    cpu, core = server.cpu_seconds(), machine.core_times(plan.server_core)
    if door.grpc:
        assert work is not None
        seen = _run_grpc(entry.python, running, work, connections, plan.seconds, folder)
    else:
        seen = load.run_wrk(
            running.port, request, connections=connections, seconds=plan.seconds, folder=folder
        )
    core_after = machine.core_times(plan.server_core)
    spent = server.cpu_seconds() - cpu
    lasted = core_after.at - core.at
    memory = server.memory()
    void = f"{seen.errors} errors" if seen.errors else "" if seen.requests else "no answers"
    return Sample(
        peer=entry.peer.name,
        config=entry.config,
        door=door_name(door),
        workload=door.workload,
        connections=connections,
        round=number,
        rps=seen.requests / seen.seconds,
        p50_ms=seen.p50_ms,
        p99_ms=seen.p99_ms,
        cpu_s_per_1k=spent / max(seen.requests, 1) * 1000,
        rss_mib=memory.rss / 2**20,
        pss_mib=memory.pss / 2**20,
        generator_cpu=seen.generator_cpu,
        foreign_cpu=max(0.0, (core_after.busy - core.busy - spent) / lasted),
        steal=(core_after.steal - core.steal) / lasted,
        void=void,
    )


def door_name(door: Door) -> str:
    if door.dialect is None:
        return "no-op"
    return "OIP v2 gRPC, raw bytes" if door.grpc else door.dialect.name


def _run_grpc(
    python: Path, running: Running, work: Workload, connections: int, seconds: int, folder: Path
) -> load.Load:
    rows = folder / "rows.npy"
    np.save(rows, work.rows)
    script = SERVERS / "mlserver_grpc_load.py"
    argv = [python, script, running.grpc_port, rows, connections, seconds]
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerFailed(f"gRPC load failed: {done.stderr.strip().splitlines()[-1:]}")
    seen = json.loads(done.stdout)
    nan = float("nan")
    return load.Load(seen["requests"], seen["seconds"], 0, nan, nan, nan)


def prepare(peers: Sequence[Peer], cache: Path, failures: dict[str, str]) -> dict[str, Path]:
    """The Python of every peer's environment, by peer; those that cannot be made go to
    `failures`."""
    pythons: dict[str, Path] = {}
    for peer in peers:
        if peer.name == OUR_NAME:
            pythons[peer.name] = Path(sys.executable)
            continue
        try:
            folder = environments.ensure(peer.environment or peer.name, peer.requirements, cache)
            pythons[peer.name] = folder / "bin" / "python"
        except environments.EnvironmentFailed as failed:
            failures[peer.title] = str(failed)
            print(f"{peer.title} is left out: {failed}", file=sys.stderr, flush=True)
    return pythons
