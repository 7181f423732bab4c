"""What a gateway must know to answer: who may call, and which replicas answer for what.

Control writes a snapshot for every change; gateways read it. A gateway that has one needs neither
control nor the database.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from maas.domain.keys import Key
from maas.domain.signature import Signature


@dataclass(frozen=True)
class TargetRoute:
    """One target of a deployment: a variant, its share of the traffic, and who answers."""

    version: int
    variant: str
    weight: int
    signature: Signature
    sockets: tuple[str, ...]
    """Unix sockets of the ready replicas; empty while none is ready."""
    task: str = "other"
    """The version's task: which protocols make sense for it."""
    published_at: float = 0.0
    """Seconds since the epoch, UTC."""


@dataclass(frozen=True)
class DeploymentRoutes:
    name: str
    model: str
    routes: tuple[TargetRoute, ...]
    queue_limit: int
    reason: str = ""
    """Why nothing answers, if nothing does; shown to callers."""


@dataclass(frozen=True)
class Snapshot:
    generation: int
    deployments: tuple[DeploymentRoutes, ...] = ()
    keys: tuple[Key, ...] = ()
    default: str | None = None
    """The deployment that `/predict` without a name calls."""
    written_at: float = field(default=0.0)
