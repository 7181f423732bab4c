"""The reconciler's state as the API shows it: desired state, actual state, and the difference."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from maas.control.reconciliation.plans import ReplicaGroup
from maas.control.reconciliation.replica_lifecycle import LiveReplica
from maas.control.reconciliation.state import FailureRecord, ReconcilerState, ServedDeployment
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
    ready = 0
    for group in served.desired.groups:
        ready += min(group.count, len(state.ready(group)))
    return deployment.to_dict() | {
        "ready": ready,
        "desired": served.desired.replica_count,
        "state": _state(state, served),
        "reason": reason,
    }


def replica_views(state: ReconcilerState, name: str) -> list[dict[str, Any]]:
    """The replicas of a deployment, with their latest statistics."""
    return [_replica_view(replica) for replica in _replicas_of(state, name)]


def replica_ids(state: ReconcilerState, name: str) -> list[str] | None:
    """Replicas of a deployment whose logs matter: the latest that failed, and the running ones.

    None if there is no such deployment.
    """
    served = state.served.get(name)
    if served is None:
        return None
    ids: dict[str, None] = {}  # each id once, in order
    for failure in _failures(state, (*served.desired.groups, *served.active.groups)):
        ids[failure.replica] = None
    for replica in _replicas_of(state, name):
        ids[replica.id] = None
    return list(filter(None, ids))


def _replicas_of(state: ReconcilerState, name: str) -> list[LiveReplica]:
    return [r for r in state.replicas if r.template.deployment == name]


def _replica_view(replica: LiveReplica) -> dict[str, Any]:
    return replica.to_replica().to_dict() | {
        "rss_bytes": replica.stats.get("rss_bytes"),
        "served": replica.stats.get("served"),
        "queued": replica.stats.get("queued"),
    }


def _failures(state: ReconcilerState, groups: Iterable[ReplicaGroup]) -> list[FailureRecord]:
    """Records of those groups that have failed."""
    return [state.failures[g.digest] for g in groups if g.digest in state.failures]


def _state(state: ReconcilerState, served: ServedDeployment) -> str:
    """ready | starting | updating | failed | stopped"""
    incomplete = [g for g in served.desired.groups if len(state.ready(g)) < g.count]
    failures = _failures(state, incomplete)
    if served.desired.problem or any(failure.is_persistent for failure in failures):
        return "failed"
    if served.is_updating and state.answers_partly(served.active):
        return "updating"
    since = served.complete_since
    if since is None or time.monotonic() - since < SNAPSHOT_DELAY_S:
        return "starting"
    if served.desired.replica_count == 0:
        return "stopped"
    return "ready"
