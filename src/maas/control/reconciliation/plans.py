"""Plans: the replica groups that a deployment requires."""

from __future__ import annotations

from dataclasses import dataclass

from maas.domain.deployments import Deployment, LocalFile, ReplicaSpec, Scaling, Target
from maas.domain.errors import MaasError
from maas.domain.machine import usable_cores
from maas.domain.models import Task, Version
from maas.storage.versions import Versions


@dataclass(frozen=True)
class ReplicaGroup:
    """The interchangeable replicas of one target of a deployment."""

    target: Target
    template: ReplicaSpec
    """Without id, socket and the files' paths, which the launcher adds."""
    digest: str
    """Digest of the template."""
    count: int
    """Desired number of replicas."""
    task: str = "other"
    published_at: float = 0.0
    """Seconds since the epoch, UTC."""


@dataclass(frozen=True)
class DeploymentPlan:
    """The replica groups of one revision of a deployment."""

    deployment: Deployment
    groups: tuple[ReplicaGroup, ...] = ()
    problem: str = ""
    """Why there are no groups, if the deployment cannot be planned."""

    @property
    def replica_count(self) -> int:
        """Desired number of replicas of all groups."""
        return sum(group.count for group in self.groups)


GENERATION_SLOTS = 32
"""Sequences that one engine generates at once. More slow each other down and do not increase the
total throughput."""


def default_scaling(task: Task) -> Scaling:
    """Scaling of a new deployment whose request sets none.

    A text-generation model gets one replica with all cores: tokens depend on each other, so it
    answers sooner than several replicas that share the cores.
    """
    if task is Task.TEXT_GENERATION:
        return Scaling(max_batch=GENERATION_SLOTS, threads=usable_cores())
    return Scaling()


class Planner:
    """Makes plans. Blocks on the database; caches versions, which never change."""

    def __init__(self, versions: Versions, drain_s: float) -> None:
        self._versions = versions
        self._drain_s = drain_s
        self._cache: dict[tuple[str, int], Version] = {}

    def plan(self, deployment: Deployment) -> DeploymentPlan:
        """The plan, with a `problem` if the deployment names something that does not exist.

        Raises MaasError if the storage fails.
        """
        try:
            groups = tuple(self._group(deployment, target) for target in deployment.targets)
        except MaasError as error:
            if error.status >= 500:
                raise
            return DeploymentPlan(deployment, problem=f"{error.code}: {error.message}")
        return DeploymentPlan(deployment, groups)

    def _group(self, deployment: Deployment, target: Target) -> ReplicaGroup:
        version = self._version(deployment.model, target)
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

    def _version(self, model: str, target: Target) -> Version:
        key = (model, target.version)
        version = self._cache.get(key)
        # The variant may have been added since the version was cached.
        if version is None or target.variant not in {v.name for v in version.variants}:
            version = self._cache[key] = self._versions.get(*key)
        return version
