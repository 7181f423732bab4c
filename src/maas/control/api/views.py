"""What people see of the reconciler's state: desired, actual, and why they differ."""

from __future__ import annotations

import time
from typing import Any

from maas.control.reconciliation.replica_life import LiveReplica
from maas.control.reconciliation.state import ReconcilerState, ServedDeployment
from maas.domain.deployments import Deployment

GATEWAYS_KNOW_AFTER_S = 0.1
"""Gateways look for a new snapshot every 50 ms; nobody is told `ready` before they had the time."""


def deployment_view(state: ReconcilerState, deployment: Deployment) -> dict[str, Any]:
    """`Deployment.to_dict()` with `ready`, `desired`, `state` and `reason`."""
    served = state.served.get(deployment.name)
    if served is None or served.wanted.deployment.revision < deployment.revision:
        # The database answered before the reconciler looked.
        progress: dict[str, Any] = {"ready": 0, "desired": _desired(deployment)}
        progress |= {"state": "starting", "reason": "the change was not looked at yet"}
        return deployment.to_dict() | progress
    reason = state.reason(served)
    if reason and served.is_updating and state.answers_somehow(served.active):
        reason += f"; revision {served.active.deployment.revision} answers meanwhile"
    return deployment.to_dict() | {
        "ready": sum(min(g.count, len(state.ready(g))) for g in served.wanted.groups),
        "desired": served.wanted.desired,
        "state": _state(state, served),
        "reason": reason,
    }


def replica_views(state: ReconcilerState, name: str) -> list[dict[str, Any]]:
    """The replicas of a deployment, with what they said about themselves last."""
    return [_replica_view(r) for r in state.replicas if r.template.deployment == name]


def replica_ids(state: ReconcilerState, name: str) -> list[str] | None:
    """Replicas of a deployment whose logs say something: the latest that failed, and those that
    live. None if there is no such deployment."""
    served = state.served.get(name)
    if served is None:
        return None
    digests = [g.digest for g in (*served.wanted.groups, *served.active.groups)]
    failed = [state.troubles[d].replica for d in digests if d in state.troubles]
    living = [r.id for r in state.replicas if r.template.deployment == name]
    return [i for i in dict.fromkeys((*failed, *living)) if i]


def _replica_view(replica: LiveReplica) -> dict[str, Any]:
    stats = {name: replica.stats.get(name) for name in ("rss_bytes", "served", "queued")}
    return replica.to_replica().to_dict() | stats


def _state(state: ReconcilerState, served: ServedDeployment) -> str:
    """ready | starting | updating | failed | stopped"""
    short = [g for g in served.wanted.groups if len(state.ready(g)) < g.count]
    troubles = [state.troubles[g.digest] for g in short if g.digest in state.troubles]
    if served.wanted.problem or any(
        t.reason and (t.never_ready or t.failures > 1) for t in troubles
    ):
        return "failed"
    if served.is_updating and state.answers_somehow(served.active):
        return "updating"
    since = served.complete_since
    if since is None or time.monotonic() - since < GATEWAYS_KNOW_AFTER_S:
        return "starting"
    return "ready" if served.wanted.desired else "stopped"


def _desired(deployment: Deployment) -> int:
    return len(deployment.targets) * deployment.scaling.replicas
