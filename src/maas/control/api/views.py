"""The reconciler's state as the API shows it: desired state, actual state, and the difference."""

from __future__ import annotations

import time
from typing import Any

from maas.control.reconciliation.replica_lifecycle import LiveReplica
from maas.control.reconciliation.state import ReconcilerState, ServedDeployment
from maas.domain.deployments import Deployment

SNAPSHOT_DELAY_S = 0.1
"""Time until gateways, which poll every 50 ms, have read a snapshot."""


def deployment_view(state: ReconcilerState, deployment: Deployment) -> dict[str, Any]:
    """`Deployment.to_dict()` with `ready`, `desired`, `state` and `reason`."""
    served = state.served.get(deployment.name)
    if served is None or served.desired.deployment.revision < deployment.revision:
        # The reconciler has not read this revision from the database yet.
        return deployment.to_dict() | {
            "ready": 0,
            "desired": len(deployment.targets) * deployment.scaling.replicas,
            "state": "starting",
            "reason": "the change has not been applied yet",
        }
    reason = state.reason(served)
    if reason and served.is_updating and state.answers_partly(served.active):
        reason += f"; revision {served.active.deployment.revision} answers meanwhile"
    return deployment.to_dict() | {
        "ready": sum(min(g.count, len(state.ready(g))) for g in served.desired.groups),
        "desired": served.desired.replica_count,
        "state": _state(state, served),
        "reason": reason,
    }


def replica_views(state: ReconcilerState, name: str) -> list[dict[str, Any]]:
    """The replicas of a deployment, with their latest statistics."""
    return [_replica_view(r) for r in state.replicas if r.template.deployment == name]


def replica_ids(state: ReconcilerState, name: str) -> list[str] | None:
    """Replicas of a deployment whose logs matter: the latest that failed, and the running ones.

    None if there is no such deployment.
    """
    served = state.served.get(name)
    if served is None:
        return None
    digests = [g.digest for g in (*served.desired.groups, *served.active.groups)]
    failed = [state.failures[d].replica for d in digests if d in state.failures]
    running = [r.id for r in state.replicas if r.template.deployment == name]
    return [i for i in dict.fromkeys((*failed, *running)) if i]


def _replica_view(replica: LiveReplica) -> dict[str, Any]:
    stats = {name: replica.stats.get(name) for name in ("rss_bytes", "served", "queued")}
    return replica.to_replica().to_dict() | stats


def _state(state: ReconcilerState, served: ServedDeployment) -> str:
    """ready | starting | updating | failed | stopped"""
    incomplete = [g for g in served.desired.groups if len(state.ready(g)) < g.count]
    failures = [state.failures[g.digest] for g in incomplete if g.digest in state.failures]
    if served.desired.problem or any(failure.is_persistent for failure in failures):
        return "failed"
    if served.is_updating and state.answers_partly(served.active):
        return "updating"
    since = served.complete_since
    if since is None or time.monotonic() - since < SNAPSHOT_DELAY_S:
        return "starting"
    return "ready" if served.desired.replica_count else "stopped"
