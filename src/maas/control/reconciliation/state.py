"""The reconciler's state: plans, replicas, and records of failures."""

from __future__ import annotations

from dataclasses import dataclass, field

from maas.control.reconciliation.plans import DeploymentPlan, ReplicaGroup
from maas.control.reconciliation.replica_lifecycle import LiveReplica


@dataclass
class ServedDeployment:
    """One deployment: the desired plan, and the active plan, which has the traffic."""

    desired: DeploymentPlan
    active: DeploymentPlan
    complete_since: float | None = None
    """Time (monotonic) of the first snapshot with all of `desired`; None before that."""

    @property
    def is_updating(self) -> bool:
        return self.active is not self.desired


@dataclass
class FailureRecord:
    """Failures of one replica group."""

    deployment: str
    count: int = 0
    failed_at: float = 0.0
    """Time of the latest failure that counted (monotonic)."""
    not_before: float = 0.0
    """Earliest time of the next start (monotonic)."""
    reason: str = ""
    """The latest failure; '' once a replica of the group is ready."""
    replica: str = ""
    """Id of the latest replica that failed."""
    never_ready: bool = False
    """Whether the latest replica failed before it was ready."""

    @property
    def is_persistent(self) -> bool:
        """Whether another attempt is likely to fail, too."""
        return bool(self.reason) and (self.never_ready or self.count > 1)


@dataclass
class ReconcilerState:
    """Everything that the reconciler knows; `maas.control.api.views` shows it."""

    served: dict[str, ServedDeployment] = field(default_factory=dict)
    """By name of the deployment."""
    replicas: list[LiveReplica] = field(default_factory=list)
    failures: dict[str, FailureRecord] = field(default_factory=dict)
    """By digest of the replica group."""

    def ready(self, group: ReplicaGroup) -> list[LiveReplica]:
        """The ready replicas of `group`."""
        return [r for r in self.replicas if r.digest == group.digest and r.is_ready]

    def is_complete(self, plan: DeploymentPlan) -> bool:
        """Whether all replicas of `plan` are ready."""
        return not plan.problem and all(len(self.ready(g)) >= g.count for g in plan.groups)

    def answers(self, plan: DeploymentPlan) -> bool:
        """Whether every target with traffic has a ready replica."""
        groups = [g for g in plan.groups if g.target.weight > 0]
        return bool(groups) and all(self.ready(g) for g in groups)

    def answers_partly(self, plan: DeploymentPlan) -> bool:
        """Whether some target with traffic has a ready replica."""
        return any(self.ready(g) for g in plan.groups if g.target.weight > 0)

    def reason(self, served: ServedDeployment) -> str:
        """Why the actual state differs from the desired state; '' if it does not."""
        if served.desired.problem:
            return served.desired.problem
        incomplete = [g for g in served.desired.groups if len(self.ready(g)) < g.count]
        for group in incomplete:
            failure = self.failures.get(group.digest)
            if failure is not None and failure.reason:
                return failure.reason
        if incomplete:
            return "replicas are starting"
        return "" if served.desired.replica_count else "it is scaled to 0 replicas"
