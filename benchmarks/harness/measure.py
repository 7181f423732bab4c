"""Interleaved rounds over all participants, in an order that is rotated and reversed."""

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

from benchmarks.harness import environments, load, machine
from benchmarks.harness.models import Workload
from benchmarks.harness.peers import OUR_NAME, SERVERS, Endpoint, LaunchContext, Peer, Running
from benchmarks.harness.processes import ServerFailed, free_port


@dataclass(frozen=True)
class Plan:
    """Rounds, durations, cores and numbers of connections."""

    rounds: int
    seconds: int
    warmup: int
    server_core: int
    load_core: int
    cache: Path
    connections: Mapping[str, Sequence[int]]
    """Numbers of connections, by workload."""


@dataclass(frozen=True)
class Entry:
    """A participant with one of its configurations."""

    peer: Peer
    config: str
    python: Path


@dataclass(frozen=True)
class Sample:
    """Measurement of one route with one number of connections in one round."""

    peer: str
    config: str
    protocol: str
    workload: str
    connections: int
    round: int
    rps: float
    p50_ms: float
    p99_ms: float
    cpu_s_per_1k: float
    """CPU seconds of the server's process tree per 1,000 requests."""
    rss_mib: float
    pss_mib: float
    generator_cpu: float
    foreign_cpu: float
    """Share of the server's core that other processes used."""
    steal: float
    void: str
    """Reason why this sample is invalid; empty if it is valid."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def order(entries: Sequence[Entry], number: int) -> list[Entry]:
    """Order of a round (ABBA): forward, backward, then rotated by one and forward, and so on."""
    shift = number // 2 % len(entries)
    rotated = [*entries[shift:], *entries[:shift]]
    return rotated[::-1] if number % 2 else rotated


def run(
    plan: Plan,
    entries: Sequence[Entry],
    workloads: Mapping[str, Workload],
    failures: dict[str, str],
) -> Iterator[Sample]:
    """All samples, round by round.

    A participant that fails is skipped from then on, with the reason in `failures`.
    """
    for number in range(plan.rounds):
        for entry in order(entries, number):
            label = f"{entry.peer.title} [{entry.config}]"
            if label in failures:
                continue
            print(f"round {number + 1}/{plan.rounds}: {label}", file=sys.stderr, flush=True)
            try:
                yield from _run_turn(plan, entry, workloads, number)
            except ServerFailed as error:
                failures[label] = str(error)
                print(f"  skipped: {error}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class _Turn:
    """One participant with its server running in one round."""

    plan: Plan
    entry: Entry
    workloads: Mapping[str, Workload]
    number: int
    """Number of the round, from 0."""
    running: Running
    folder: Path


def _run_turn(
    plan: Plan, entry: Entry, workloads: Mapping[str, Workload], number: int
) -> Iterator[Sample]:
    """Starts a server, measures all its endpoints, and stops it."""
    plan.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=plan.cache, prefix="run-") as folder:
        context = LaunchContext(
            python=entry.python,
            port=free_port(),
            spare_port=free_port(),
            options=entry.peer.grid[entry.config],
            models=plan.cache / "models",
            folder=Path(folder),
            log=plan.cache / "logs" / f"{entry.peer.name}.log",
            core=plan.server_core,
        )
        running = entry.peer.start(context)
        try:
            turn = _Turn(plan, entry, workloads, number, running, Path(folder))
            for endpoint in entry.peer.endpoints:
                if endpoint.workload in plan.connections:
                    yield from _measure_endpoint(turn, endpoint)
        finally:
            running.server.stop()


def _measure_endpoint(turn: _Turn, endpoint: Endpoint) -> Iterator[Sample]:
    """Checks answers, warms up, measures with every number of connections, and checks again."""
    plan, running = turn.plan, turn.running
    request = request_of(running, endpoint, turn.workloads)
    work = turn.workloads.get(endpoint.workload)

    def check() -> None:
        if endpoint.request_format and work and not endpoint.grpc:
            load.check_answers(
                running.port, endpoint.path, endpoint.request_format, work, running.headers
            )

    check()
    levels = plan.connections[endpoint.workload]
    if not endpoint.grpc and plan.warmup:
        load.run_wrk(
            running.port,
            request,
            connections=max(levels),
            seconds=plan.warmup,
            folder=turn.folder,
        )
    for connections in levels:
        yield _measure(turn, endpoint, request, connections)
    check()


def request_of(
    running: Running, endpoint: Endpoint, workloads: Mapping[str, Workload]
) -> load.Request:
    """Request of the load generator: the first row, with the headers of this server."""
    if endpoint.request_format is None:
        return load.Request("GET", endpoint.path, dict(running.headers), b"")
    work = workloads[endpoint.workload]
    headers, body = endpoint.request_format.encode(work, work.rows[0])
    return load.Request("POST", endpoint.path, {**headers, **running.headers}, body)


def _measure(turn: _Turn, endpoint: Endpoint, request: load.Request, connections: int) -> Sample:
    plan, server = turn.plan, turn.running.server
    cpu, core = server.cpu_seconds(), machine.core_times(plan.server_core)
    if endpoint.grpc:
        result = _run_grpc(turn, turn.workloads[endpoint.workload], connections)
    else:
        result = load.run_wrk(
            turn.running.port,
            request,
            connections=connections,
            seconds=plan.seconds,
            folder=turn.folder,
        )
    core_after = machine.core_times(plan.server_core)
    cpu_s = server.cpu_seconds() - cpu
    seconds = core_after.at - core.at
    memory = server.memory()
    void = "" if result.requests else "no answers"
    if result.errors:
        void = f"{result.errors} errors"
    return Sample(
        peer=turn.entry.peer.name,
        config=turn.entry.config,
        protocol=protocol_name(endpoint),
        workload=endpoint.workload,
        connections=connections,
        round=turn.number,
        rps=result.requests / result.seconds,
        p50_ms=result.p50_ms,
        p99_ms=result.p99_ms,
        cpu_s_per_1k=cpu_s / max(result.requests, 1) * 1000,
        rss_mib=memory.rss / 2**20,
        pss_mib=memory.pss / 2**20,
        generator_cpu=result.generator_cpu,
        foreign_cpu=max(0.0, (core_after.busy - core.busy - cpu_s) / seconds),
        steal=(core_after.steal - core.steal) / seconds,
        void=void,
    )


def protocol_name(endpoint: Endpoint) -> str:
    if endpoint.request_format is None:
        return "no-op"
    return "OIP v2 gRPC, raw bytes" if endpoint.grpc else endpoint.request_format.name


def _run_grpc(turn: _Turn, work: Workload, connections: int) -> load.Load:
    rows = turn.folder / "rows.npy"
    np.save(rows, work.rows)
    script, port = SERVERS / "mlserver_grpc_load.py", turn.running.grpc_port
    argv = [turn.entry.python, script, port, rows, connections, turn.plan.seconds]
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerFailed(f"gRPC load failed: {done.stderr.strip().splitlines()[-1:]}")
    result = json.loads(done.stdout)
    nan = float("nan")
    return load.Load(result["requests"], result["seconds"], 0, nan, nan, nan)


def prepare(peers: Sequence[Peer], cache: Path, failures: dict[str, str]) -> dict[str, Path]:
    """Python interpreter of each peer's environment, by peer.

    Peers whose environment cannot be created are in `failures`.
    """
    pythons: dict[str, Path] = {}
    for peer in peers:
        if peer.name == OUR_NAME:
            pythons[peer.name] = Path(sys.executable)
            continue
        try:
            folder = environments.ensure(peer.environment or peer.name, peer.requirements, cache)
            pythons[peer.name] = folder / "bin" / "python"
        except environments.EnvironmentFailed as error:
            failures[peer.title] = str(error)
            print(f"{peer.title} is skipped: {error}", file=sys.stderr, flush=True)
    return pythons
