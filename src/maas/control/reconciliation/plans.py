"""What a deployment means in processes: which replicas, told what, how many of each."""

from __future__ import annotations

from dataclasses import dataclass

from maas.domain.deployments import Deployment, LocalFile, ReplicaSpec, Scaling, Target
from maas.domain.errors import MaasError
from maas.domain.machine import usable_cores
from maas.domain.models import Task, Version
from maas.storage.versions import Versions


@dataclass(frozen=True)
class ReplicaGroup:
    """Interchangeable replicas: the ones of one target of one deployment."""

    target: Target
    template: ReplicaSpec
    """Without id, socket and the files' paths, which the launcher knows."""
    digest: str
    count: int
    task: str = "other"
    published_at: float = 0.0


@dataclass(frozen=True)
class DeploymentPlan:
    deployment: Deployment
    groups: tuple[ReplicaGroup, ...] = ()
    problem: str = ""
    """Why there are no groups, if the deployment cannot be understood."""

    @property
    def desired(self) -> int:
        return sum(group.count for group in self.groups)


GENERATION_SLOTS = 32
"""Sequences that one engine writes at once; more make each slower and all together no faster."""


def usual_scaling(task: Task) -> Scaling:
    """What a new deployment gets where its maker says nothing. Text comes token after token, so
    one replica that has all cores answers sooner than several that share them."""
    if task is Task.TEXT_GENERATION:
        return Scaling(max_batch=GENERATION_SLOTS, threads=usable_cores())
    return Scaling()


class Planner:
    """Blocks on the database for versions and variants that it has not seen; what it has seen
    never changes."""

    def __init__(self, versions: Versions, drain_s: float) -> None:
        self._versions = versions
        self._drain_s = drain_s
        self._known: dict[tuple[str, int], Version] = {}

    def plan(self, deployment: Deployment) -> DeploymentPlan:
        try:
            groups = tuple(self._group(deployment, target) for target in deployment.targets)
        except MaasError as error:
            if error.status >= 500:
                raise
            return DeploymentPlan(deployment, problem=f"{error.code}: {error.message}")
        return DeploymentPlan(deployment, groups)

    def _group(self, deployment: Deployment, target: Target) -> ReplicaGroup:
        place = (deployment.model, target.version)
        known = self._known.get(place)
        if known is None or target.variant not in (v.name for v in known.variants):
            # A version may have got this variant since.
            self._known[place] = self._versions.get(*place)
        version = self._known[place]
        variant = version.variant(target.variant)
        template = ReplicaSpec(
            id="",
            deployment=deployment.name,
            model=deployment.model,
            version=target.version,
            variant=variant.name,
            runtime=variant.runtime,
            files=tuple(LocalFile(f.name, "", f.sha256) for f in variant.files),
            signature=version.manifest.signature,
            scaling=deployment.scaling,
            socket="",
            options=variant.options,
            drain_s=self._drain_s,
        )
        return ReplicaGroup(
            target,
            template,
            template.digest,
            deployment.scaling.replicas,
            str(version.manifest.task),
            version.created_at,
        )
