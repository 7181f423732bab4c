"""bench: how fast a deployment is under a load, through the door that its callers use."""

from __future__ import annotations

import ipaddress
import time
from typing import Any

from maas.client.administration import status
from maas.client.answers import DeploymentView, VersionDetails
from maas.client.deployments import get
from maas.client.http.calls import Awaitable, Flow, path
from maas.client.http.transport import Endpoint
from maas.client.load.connections import Address
from maas.client.load.generator import (
    Level,
    LoadRequests,
    LoadRun,
    RowRequests,
    TextRequests,
    Watch,
)
from maas.client.registry import version
from maas.client.values import encode_inputs
from maas.domain.errors import InvalidInput
from maas.domain.models import Task
from maas.lifecycle.load.load_results import (
    ROW_CONCURRENCY,
    TEXT_CONCURRENCY,
    Load,
    LoadResult,
)
from maas.lifecycle.load.statistics import notes
from maas.version import __version__

TEXT_METHOD = (
    "POST /v1/completions, streamed, temperature 0; tokens are those of the server's usage; time "
    "to first token and latency count from sending"
)
ROW_METHOD = "POST /predict with the signature's example; latency counts from sending"
CLOSED = "closed loop: each caller waits for its answer before it asks again"
OPEN = (
    "open loop: requests arrive at random at the rate, answered or not; latencies count from when "
    "they were due"
)


def bench(
    connection: Endpoint, deployment: str, load: Load | None = None, watch: Watch | None = None
) -> Flow[LoadResult]:
    """Puts `load` on a deployment and measures what its callers would see.

    Text generation is asked for streams at its completions door: time to first token, time per
    output token and tokens per second. Every other task is asked at `/predict` with its signature's
    example: requests per second. Latencies are milliseconds, at the 50th and 99th percentile.
    `watch` is told how far it is. Raises NotFound, Forbidden (the key needs the scopes read and
    call), what the first request raises; later failures are counted in the figures.
    """
    load = load or Load()
    view: DeploymentView = yield get(deployment)
    target = max(view.deployment.targets, key=lambda t: t.weight)
    details: VersionDetails = yield version(f"{view.deployment.model}:{target.version}")
    server: dict[str, Any] = yield status()
    address = Address.of(connection)
    manifest = details.version.manifest
    asker: LoadRequests
    if manifest.task is Task.TEXT_GENERATION:
        asker = TextRequests(address, deployment, load)
        usual, method = TEXT_CONCURRENCY, TEXT_METHOD
    else:
        if not manifest.signature.example:
            raise InvalidInput(f"{manifest.model} has no example to ask with", field="example")
        body = encode_inputs(manifest.signature.example)
        asker = RowRequests(address, path("predict", deployment), body)
        usual, method = ROW_CONCURRENCY, ROW_METHOD
    levels = [Level(rate=rate) for rate in load.rates]
    levels = levels or [Level(concurrency=c) for c in load.concurrency or usual]
    run = LoadRun(address, asker, load, levels, watch)
    started_at = time.time()
    completed = yield Awaitable(run.run, lambda: _stopped(run))
    here = is_this_machine(address.host)
    told = {k: server[k] for k in ("version", "machine") if k in server}
    return LoadResult(
        deployment=deployment,
        model=f"{manifest.model}:{target.version}",
        targets=_targets(view),
        task=str(manifest.task),
        load=load,
        levels=tuple(run.finished),
        how=_how(load, method, here, asker.writes) | {"server": told, "started_at": started_at},
        interrupted=completed is False,
        notes=tuple(notes(load, run.finished, same_machine=here)),
    )


def is_this_machine(host: str) -> bool:
    """Whether a host is the one that asks, as far as its name says."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _stopped(run: LoadRun) -> bool:
    if not run.finished:
        raise KeyboardInterrupt
    return False


def _how(load: Load, method: str, here: bool, writes: bool) -> dict[str, Any]:
    where = "the server's machine" if here else "another machine than the server"
    return {
        "method": f"{method}; {OPEN if load.rates else CLOSED}",
        "prompts": _prompts(load) if writes else "the same row each time",
        "seed": load.seed,
        "client": f"maas bench {__version__}, on {where}",
    }


def _prompts(load: Load) -> str:
    if load.same_prompt:
        return "the same each time, so that remembered prefixes count"
    return "each another from its first word on, so that remembered prefixes do not count"


def _targets(view: DeploymentView) -> tuple[str, ...]:
    targets = view.deployment.targets
    total = sum(t.weight for t in targets)
    return tuple(
        f"{t.version}/{t.variant}" + ("" if len(targets) == 1 else f" {100 * t.weight / total:g}%")
        for t in targets
    )
