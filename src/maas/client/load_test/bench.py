"""bench: latency and throughput of a deployment under load, measured over HTTP."""

from __future__ import annotations

import ipaddress
import time
from typing import Any

from maas.client.administration import status
from maas.client.answers import DeploymentView, VersionDetails
from maas.client.deployments import get
from maas.client.http.calls import Awaitable, Flow, path
from maas.client.http.transport import Endpoint
from maas.client.load_test.connection import Address
from maas.client.load_test.generator import (
    Level,
    LoadProgressCallback,
    LoadRequests,
    LoadRun,
    RowRequests,
    TextRequests,
)
from maas.client.registry import version
from maas.client.values import encode_inputs
from maas.domain.errors import InvalidInput
from maas.domain.models import Task
from maas.lifecycle.load_test.results import (
    ROW_CONCURRENCY,
    TEXT_CONCURRENCY,
    Load,
    LoadResult,
)
from maas.lifecycle.load_test.statistics import notes
from maas.version import __version__

TEXT_METHOD = (
    "POST /v1/completions, streamed, temperature 0; tokens are those of the server's usage; time "
    "to first token and latency count from sending"
)
ROW_METHOD = "POST /predict with the signature's example; latency counts from sending"
CLOSED = "closed loop: each client waits for its answer before it sends the next request"
OPEN = (
    "open loop: requests arrive at random times at the rate, whether earlier ones are answered or "
    "not; latencies count from when they were due"
)


def bench(
    endpoint: Endpoint,
    deployment: str,
    load: Load | None = None,
    progress: LoadProgressCallback | None = None,
) -> Flow[LoadResult]:
    """Measure latency and throughput of a deployment under `load`, as its clients see them.

    Text generation is measured with streams of `/v1/completions`: time to first token, time per
    output token and tokens per second. Every other task is measured with `/predict` and the example
    of its signature: requests per second. Latencies are in milliseconds, at the 50th and the 99th
    percentile. `progress` is called about four times a second and after each level.

    Raises NotFound, Forbidden (the key needs the scopes read and call), and any error of the first
    request; later errors are counted in the result.
    """
    load = load or Load()
    view: DeploymentView = yield get(deployment)
    target = max(view.deployment.targets, key=lambda t: t.weight)
    details: VersionDetails = yield version(f"{view.deployment.model}:{target.version}")
    server: dict[str, Any] = yield status()
    address = Address.of(endpoint)
    manifest = details.version.manifest
    requests: LoadRequests
    if manifest.task is Task.TEXT_GENERATION:
        requests = TextRequests(address, deployment, load)
        usual, method = TEXT_CONCURRENCY, TEXT_METHOD
    else:
        if not manifest.signature.example:
            raise InvalidInput(f"{manifest.model} has no example to send", field="example")
        body = encode_inputs(manifest.signature.example)
        requests = RowRequests(address, path("predict", deployment), body)
        usual, method = ROW_CONCURRENCY, ROW_METHOD
    levels = [Level(rate=rate) for rate in load.rates]
    levels = levels or [Level(concurrency=c) for c in load.concurrency or usual]
    run = LoadRun(address, requests, load, levels, progress)
    started_at = time.time()
    completed = yield Awaitable(run.run, lambda: _stopped(run))
    here = is_this_machine(address.host)
    facts = {key: server[key] for key in ("version", "machine") if key in server}
    return LoadResult(
        deployment=deployment,
        model=f"{manifest.model}:{target.version}",
        targets=_targets(view),
        task=str(manifest.task),
        load=load,
        levels=tuple(run.finished),
        how=_how(load, method, here, requests.generates_text)
        | {"server": facts, "started_at": started_at},
        interrupted=completed is False,
        notes=tuple(notes(load, run.finished, same_machine=here)),
    )


def is_this_machine(host: str) -> bool:
    """Whether a host name or address means this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _stopped(run: LoadRun) -> bool:
    if not run.finished:
        raise KeyboardInterrupt
    return False


def _how(load: Load, method: str, here: bool, has_prompts: bool) -> dict[str, Any]:
    where = "the server's machine" if here else "another machine than the server"
    return {
        "method": f"{method}; {OPEN if load.rates else CLOSED}",
        "prompts": _prompts(load) if has_prompts else "the same row each time",
        "seed": load.seed,
        "client": f"maas bench {__version__}, on {where}",
    }


def _prompts(load: Load) -> str:
    if load.same_prompt:
        return "the same each time, so that cached prefixes count"
    return "different from the first word on, so that cached prefixes do not count"


def _targets(view: DeploymentView) -> tuple[str, ...]:
    targets = view.deployment.targets
    total = sum(t.weight for t in targets)
    return tuple(
        f"{t.version}/{t.variant}" + ("" if len(targets) == 1 else f" {100 * t.weight / total:g}%")
        for t in targets
    )
