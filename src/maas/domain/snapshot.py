"""The routing snapshot: the keys, deployments and replica sockets that a gateway needs to answer.

Control writes a snapshot for every change; gateways read it. A gateway that has one needs neither
control nor the database.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from maas.domain.keys import Key
from maas.domain.signature import Signature


@dataclass(frozen=True)
class TargetRoute:
    """One target of a deployment: a variant, its share of the traffic, and its replicas."""

    version: int
    variant: str
    weight: int
    signature: Signature
    sockets: tuple[str, ...]
    """Unix sockets of the ready replicas; empty while none is ready."""
    task: str = "other"
    """The version's task, which decides the protocols that apply."""
    published_at: float = 0.0
    """Seconds since the epoch, UTC."""


@dataclass(frozen=True)
class DeploymentRoutes:
    """Routing of one deployment."""

    name: str
    model: str
    targets: tuple[TargetRoute, ...]
    queue_limit: int
    reason: str = ""
    """Why no replica is ready, if none is; shown to clients."""


@dataclass(frozen=True)
class Snapshot:
    """Everything that a gateway knows about deployments and keys."""

    generation: int
    """Increases with every snapshot."""
    deployments: tuple[DeploymentRoutes, ...] = ()
    keys: tuple[Key, ...] = ()
    default: str | None = None
    """The deployment that answers `/predict` without a name."""
    written_at: float = field(default=0.0)
