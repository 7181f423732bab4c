"""Measures every engine that can load a model on the server, one after the other, and says which is
best for an objective.

It is written against a client, not as an operation of one: whatever interrupts it, the deployment
that it made for measuring is removed.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from maas.client.answers import VersionDetails
from maas.client.client import Client
from maas.client.deployments import DeploymentFailed
from maas.client.http.errors import ServerUnavailable
from maas.client.load.generator import Watch
from maas.domain.errors import (
    Conflict,
    DeadlineExceeded,
    InferenceFailed,
    MaasError,
    NotFound,
    Unavailable,
)
from maas.lifecycle.load.choose import (
    EngineCandidate,
    EngineTrial,
    best,
    candidates,
    check_objective,
    evidence_of,
    previous_trial,
    thread_counts,
    usual_load,
)
from maas.lifecycle.load.load_results import Load, LoadResult

START_S = 600.0
END_S = 60.0
POLL_S = 0.2
_OWN = re.compile(r"-try-[0-9a-f]{6}")

Tell = Callable[[str], None]


@dataclass(frozen=True)
class EngineChoiceOptions:
    """What shall be found out."""

    name: str
    """Deployment that the best shall answer as; it is not changed here."""
    objective: str
    """latency | throughput"""
    ref: str
    """The model, or `MODEL:VERSION`."""
    variant: str | None = None
    """The variant whose files every engine gets; None: the version's first."""
    threads: int | None = None
    """So many only; None: few and all of the server's cores."""
    load: Load | None = None
    """None: that of the task, with one caller and with many."""
    again: bool = False
    """Whether to measure what was measured on this machine before."""


@dataclass(frozen=True)
class EngineChoice:
    """What every candidate came to, and the one to keep."""

    objective: str
    model: str
    version: int
    trials: tuple[EngineTrial, ...]
    kept: EngineTrial


def choose(
    client: Client, wish: EngineChoiceOptions, tell: Tell | None = None, watch: Watch | None = None
) -> EngineChoice:
    """Adds a variant per engine to the version, deploys each by itself under a name of its own
    (one replica, never two of them at once), puts the load on it, and removes it. What was
    measured stays as evidence of the variant.

    `tell` gets a sentence now and then, `watch` the progress of each load. Raises Conflict if no
    engine serves the model; KeyboardInterrupt after having removed what it made.
    """
    check_objective(wish.objective)
    tell = tell or _silent
    details: VersionDetails = client.models.version(wish.ref)
    base = details.version.variant(wish.variant)
    status = client.status()
    machine: dict[str, Any] = status["machine"]
    libraries = {r["name"]: r["library"] for r in status["runtimes"]}
    task = details.version.manifest.task
    load = wish.load or usual_load(task)
    threads = (wish.threads,) if wish.threads else thread_counts(int(machine["cores"]), task)
    _tell_leftovers(status, tell)
    trials = []
    for candidate in candidates(details.version, base, libraries, threads):
        trial = None if wish.again else previous_trial(details.evidence, candidate, load, machine)
        if trial is None:
            tell(f"measuring {candidate.label} ({candidate.library})")
            trial = _tried(client, wish, details, candidate, load, watch)
        else:
            tell(f"{candidate.label}: measured on this machine before")
        if trial.failed:
            tell(f"{candidate.label} does not serve: {trial.failed}")
        trials.append(trial)
    if not trials:
        raise Conflict(
            f"there is nothing to measure: the server has no library for {base.runtime}, or "
            "another server writes for it"
        )
    kept = best(trials, wish.objective)
    if kept is None:
        raise Conflict(f"no engine serves {wish.ref}: {trials[0].failed or 'nothing was answered'}")
    number = details.version.number
    return EngineChoice(wish.objective, details.version.model, number, tuple(trials), kept)


def _tried(
    client: Client,
    wish: EngineChoiceOptions,
    details: VersionDetails,
    candidate: EngineCandidate,
    load: Load,
    watch: Watch | None,
) -> EngineTrial:
    """Measured, and the evidence stored."""
    ref = f"{details.version.model}:{details.version.number}"
    if candidate.is_new:
        client.add_variant(ref, candidate.variant)
    result: LoadResult | None = None
    try:
        with _alone(client, wish, details, candidate) as name:
            result = client.bench(name, load, watch)
        if result.interrupted:
            raise KeyboardInterrupt
        trial = EngineTrial(candidate, result.levels)
    except ServerUnavailable:
        raise
    except (DeploymentFailed, DeadlineExceeded, InferenceFailed, Unavailable) as error:
        trial = EngineTrial(candidate, failed=error.message)
    how = {
        "obtained": f"maas deploy {wish.name} --objective {wish.objective}: one replica alone, "
        "under a name of its own",
        "machine": client.status()["machine"],
        "seed": load.seed,
        **({k: result.how[k] for k in ("method", "prompts", "client")} if result else {}),
    }
    client.add_evidence(ref, evidence_of(trial, load, how))
    return trial


@contextmanager
def _alone(
    client: Client, wish: EngineChoiceOptions, details: VersionDetails, candidate: EngineCandidate
) -> Iterator[str]:
    """The candidate as a deployment that is gone afterwards, and its process with it."""
    name = f"{wish.name[:50]}-try-{secrets.token_hex(3)}"
    try:
        client.deploy(
            name,
            model=details.version.model,
            version=details.version.number,
            variant=candidate.variant.name,
            wait_s=START_S,
            threads=candidate.threads,
        )
        yield name
        _empty(client, name)
    finally:
        with suppress(NotFound):
            client.deployments.delete(name)


def _empty(client: Client, name: str) -> None:
    """Ends the replicas of a deployment and waits until they have, so that the next one has the
    machine to itself."""
    view = client.deployments.get(name)
    client.deploy(
        name,
        model=view.deployment.model,
        targets=view.deployment.targets,
        wait_s=0,
        replicas=0,
        threads=view.deployment.scaling.threads,
    )
    ends = time.monotonic() + END_S
    while time.monotonic() < ends:
        found = [d for d in client.status()["deployments"] if d["name"] == name]
        if not any(d["replicas"] for d in found):
            return
        time.sleep(POLL_S)
    raise MaasError(f"the replica of {name} does not end")


def _tell_leftovers(status: dict[str, Any], tell: Tell) -> None:
    for found in status["deployments"]:
        if _OWN.search(found["name"]):
            tell(
                f"{found['name']} is left over from a measurement that was killed, or belongs to "
                f"one that runs now; it disturbs. Remove it with DELETE "
                f"/api/v1/deployments/{found['name']}"
            )


def _silent(_: str) -> None:
    return None
