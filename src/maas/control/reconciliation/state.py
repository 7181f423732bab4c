"""What the reconciler knows: plans, replicas, and the record of failures."""

from __future__ import annotations

from dataclasses import dataclass, field

from maas.control.reconciliation.plans import DeploymentPlan, ReplicaGroup
from maas.control.reconciliation.replica_life import LiveReplica


@dataclass
class ServedDeployment:
    """One deployment: as it shall be, and as it is routed."""

    wanted: DeploymentPlan
    active: DeploymentPlan
    complete_since: float | None = None
    """When (monotonic) a snapshot first had all of `wanted`; None before."""

    @property
    def is_updating(self) -> bool:
        return self.active is not self.wanted


@dataclass
class FailureRecord:
    """The record of one group's failures."""

    deployment: str
    failures: int = 0
    failed_at: float = 0.0
    """The latest failure that counted (monotonic)."""
    not_before: float = 0.0
    """No further start before this time (monotonic)."""
    reason: str = ""
    replica: str = ""
    """The latest that failed."""
    never_ready: bool = False


@dataclass
class ReconcilerState:
    """Everything that the reconciler knows; `maas.control.api.views` shows it."""

    served: dict[str, ServedDeployment] = field(default_factory=dict)
    replicas: list[LiveReplica] = field(default_factory=list)
    troubles: dict[str, FailureRecord] = field(default_factory=dict)
    """By digest of the group."""

    def ready(self, group: ReplicaGroup) -> list[LiveReplica]:
        return [r for r in self.replicas if r.digest == group.digest and r.is_ready]

    def is_complete(self, plan: DeploymentPlan) -> bool:
        return not plan.problem and all(len(self.ready(g)) >= g.count for g in plan.groups)

    def answers(self, plan: DeploymentPlan) -> bool:
        """Whether every target that gets traffic has somebody to answer it."""
        asked = [g for g in plan.groups if g.target.weight > 0]
        return bool(asked) and all(self.ready(g) for g in asked)

    def answers_somehow(self, plan: DeploymentPlan) -> bool:
        return any(self.ready(g) for g in plan.groups if g.target.weight > 0)

    def reason(self, served: ServedDeployment) -> str:
        """Why it is not as it shall be; '' if it is."""
        if served.wanted.problem:
            return served.wanted.problem
        short = [g for g in served.wanted.groups if len(self.ready(g)) < g.count]
        for group in short:
            trouble = self.troubles.get(group.digest)
            if trouble is not None and trouble.reason:
                return trouble.reason
        if short:
            return "replicas are starting"
        return "" if served.wanted.desired else "it is scaled to 0 replicas"
