"""Chooses the best engine for a model: each candidate is deployed alone and measured.

This is written on top of a client, not as an operation of one: whatever interrupts it, the
temporary deployment is removed.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from maas.client.answers import VersionDetails
from maas.client.client import Client
from maas.client.deployments import DeploymentFailed
from maas.client.http.errors import ServerUnavailable
from maas.client.load_test.generator import LoadProgressCallback
from maas.domain.errors import (
    Conflict,
    DeadlineExceeded,
    InferenceFailed,
    MaasError,
    NotFound,
    Unavailable,
)
from maas.domain.models import Variant
from maas.lifecycle.load_test.choose import (
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
from maas.lifecycle.load_test.results import Load, LoadResult

START_S = 600.0
"""Seconds until a candidate must be ready."""
STOP_S = 60.0
"""Seconds until its replica must have exited."""
POLL_S = 0.2
_TEMPORARY = re.compile(r"-try-[0-9a-f]{6}")

NotifyCallback = Callable[[str], None]


@dataclass(frozen=True)
class EngineChoiceOptions:
    """What to measure, and for which objective."""

    name: str
    """Deployment that the best candidate is for; it is not changed."""
    objective: str
    """latency | throughput"""
    ref: str
    """The model, or `MODEL:VERSION`."""
    variant: str | None = None
    """Variant whose files every engine loads; None takes the first of the version."""
    threads: int | None = None
    """Threads per replica; None tries few and as many as the server has cores."""
    load: Load | None = None
    """None takes the usual load of the task: one client, and many."""
    again: bool = False
    """Whether to repeat measurements that exist for this machine."""


@dataclass(frozen=True)
class EngineChoice:
    """The result of every candidate, and the best one."""

    objective: str
    model: str
    version: int
    trials: tuple[EngineTrial, ...]
    best: EngineTrial


def choose_engine(
    client: Client,
    options: EngineChoiceOptions,
    notify: NotifyCallback | None = None,
    progress: LoadProgressCallback | None = None,
) -> EngineChoice:
    """Measure every engine that can serve a version, and choose the best for an objective.

    Adds a variant per engine to the version. Each candidate is deployed under a temporary name with
    one replica, never two at once, measured under the load, and removed. The results are stored as
    evidence of its variant.

    `notify` is called with a sentence per step, `progress` during each load. Raises Conflict if no
    engine serves the model, and KeyboardInterrupt after the temporary deployment is removed.
    """
    check_objective(options.objective)
    notify = notify or _ignore
    details: VersionDetails = client.models.version(options.ref)
    status = client.status()
    _notify_of_leftovers(status, notify)
    base = details.version.variant(options.variant)
    trials = _Trials(client, options, details, status["machine"], notify, progress).run(
        base, {runtime["name"]: runtime["library"] for runtime in status["runtimes"]}
    )
    if not trials:
        raise Conflict(
            f"there is no engine to measure: the server has no library for {base.runtime}, or an "
            "external server runs the model"
        )
    winner = best(trials, options.objective)
    if winner is None:
        reason = trials[0].failed or "no request was answered"
        raise Conflict(f"no engine serves {options.ref}: {reason}")
    version = details.version
    return EngineChoice(options.objective, version.model, version.number, tuple(trials), winner)


@dataclass(frozen=True)
class _Trials:
    """Measures the candidates of one version, one after another."""

    client: Client
    options: EngineChoiceOptions
    details: VersionDetails
    machine: dict[str, Any]
    notify: NotifyCallback
    progress: LoadProgressCallback | None

    def run(self, base: Variant, libraries: Mapping[str, str | None]) -> list[EngineTrial]:
        """A trial per candidate that loads the files of `base`; `libraries` are by runtime."""
        task = self.details.version.manifest.task
        threads = thread_counts(int(self.machine["cores"]), task)
        if self.options.threads:
            threads = (self.options.threads,)
        load = self.options.load or usual_load(task)
        trials = []
        for candidate in candidates(self.details.version, base, libraries, threads):
            trial = self._trial(candidate, load)
            if trial.failed:
                self.notify(f"{candidate.label} does not serve: {trial.failed}")
            trials.append(trial)
        return trials

    def _trial(self, candidate: EngineCandidate, load: Load) -> EngineTrial:
        """The stored result of a candidate, or a new one."""
        if not self.options.again:
            stored = previous_trial(self.details.evidence, candidate, load, self.machine)
            if stored is not None:
                self.notify(f"{candidate.label}: already measured on this machine")
                return stored
        self.notify(f"measuring {candidate.label} ({candidate.library})")
        return self._measured(candidate, load)

    def _measured(self, candidate: EngineCandidate, load: Load) -> EngineTrial:
        """Measure a candidate, and store the result as evidence."""
        ref = f"{self.details.version.model}:{self.details.version.number}"
        if candidate.is_new:
            self.client.add_variant(ref, candidate.variant)
        result: LoadResult | None = None
        try:
            with self._deployed_alone(candidate) as name:
                result = self.client.bench(name, load, self.progress)
            if result.interrupted:
                raise KeyboardInterrupt
            trial = EngineTrial(candidate, result.levels)
        except ServerUnavailable:
            raise
        except (DeploymentFailed, DeadlineExceeded, InferenceFailed, Unavailable) as error:
            trial = EngineTrial(candidate, failed=error.message)
        how = {
            "obtained": f"maas deploy {self.options.name} --objective {self.options.objective}: "
            "one replica alone, under a temporary name",
            "machine": self.client.status()["machine"],
            "seed": load.seed,
        }
        if result is not None:
            how |= {key: result.how[key] for key in ("method", "prompts", "client")}
        self.client.add_evidence(ref, evidence_of(trial, load, how))
        return trial

    @contextmanager
    def _deployed_alone(self, candidate: EngineCandidate) -> Iterator[str]:
        """A temporary deployment of the candidate; afterwards it and its process are gone."""
        name = f"{self.options.name[:50]}-try-{secrets.token_hex(3)}"
        try:
            self.client.deploy(
                name,
                model=self.details.version.model,
                version=self.details.version.number,
                variant=candidate.variant.name,
                wait_s=START_S,
                threads=candidate.threads,
            )
            yield name
            _stop_replicas(self.client, name)
        finally:
            with suppress(NotFound):
                self.client.deployments.delete(name)


def _stop_replicas(client: Client, name: str) -> None:
    """Stop the replicas of a deployment and wait until they have exited, so that the next candidate
    has the machine to itself."""
    view = client.deployments.get(name)
    client.deploy(
        name,
        model=view.deployment.model,
        targets=view.deployment.targets,
        wait_s=0,
        replicas=0,
        threads=view.deployment.scaling.threads,
    )
    deadline = time.monotonic() + STOP_S
    while time.monotonic() < deadline:
        deployments = client.status()["deployments"]
        if not any(d["replicas"] for d in deployments if d["name"] == name):
            return
        time.sleep(POLL_S)
    raise MaasError(f"the replica of {name} is still running after {STOP_S:g} s")


def _notify_of_leftovers(status: dict[str, Any], notify: NotifyCallback) -> None:
    for deployment in status["deployments"]:
        name = deployment["name"]
        if _TEMPORARY.search(name):
            notify(
                f"{name} is left from a measurement that was killed, or belongs to one that is "
                f"running; it disturbs this one. `maas undeploy {name}` removes it"
            )


def _ignore(_: str) -> None:
    return None
