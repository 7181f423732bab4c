"""Deployments: callable names, what they should run, and what runs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.names import checked_name
from maas.domain.signature import Signature


@dataclass(frozen=True)
class Target:
    """A share of a deployment's traffic, and the variant that answers it."""

    version: int
    variant: str
    weight: int = 100

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1000:
            raise InvalidInput("weight must be from 0 to 1000", field="targets.weight")


@dataclass(frozen=True)
class Scaling:
    """How many replicas, and how much each takes in."""

    replicas: int = 1
    max_batch: int = 64
    """Most rows that one call of the model gets."""
    queue_limit: int = 256
    """Most requests that wait for or are in one replica; more are refused."""
    threads: int = 1
    """Threads that the runtime may use per replica."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("replicas", 0, 64),
            ("max_batch", 1, 65536),
            ("queue_limit", 1, 65536),
            ("threads", 1, 256),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise InvalidInput(
                    f"{name} must be a whole number from {low} to {high}; got {value!r}",
                    field=name,
                )


@dataclass(frozen=True)
class Deployment:
    """Desired state: which variants of a model answer under a name, and how."""

    name: str
    model: str
    targets: tuple[Target, ...]
    scaling: Scaling = field(default_factory=Scaling)
    default: bool = False
    """True for the deployment that `/predict` without a name calls."""
    gate: str = ""
    """Rule over a variant's evidence that must hold before it may serve; empty: none."""
    revision: int = 1
    """Counts the changes of this deployment; a rollback is a new revision, too."""

    def __post_init__(self) -> None:
        checked_name(self.name, "deployment")
        checked_name(self.model, "model")
        if not self.targets:
            raise InvalidInput("a deployment needs at least one target", field="targets")
        if len({(t.version, t.variant) for t in self.targets}) != len(self.targets):
            raise InvalidInput("two targets are the same version and variant", field="targets")
        if sum(t.weight for t in self.targets) <= 0:
            raise InvalidInput("the weights of the targets add up to nothing", field="targets")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"targets": [asdict(t) for t in self.targets]}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Deployment:
        return cls(
            name=str(raw["name"]),
            model=str(raw["model"]),
            targets=tuple(Target(**t) for t in raw["targets"]),
            scaling=Scaling(**raw.get("scaling", {})),
            default=bool(raw.get("default", False)),
            gate=str(raw.get("gate", "")),
            revision=int(raw.get("revision", 1)),
        )


class ReplicaState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True)
class Replica:
    """Actual state: one process that has one variant loaded."""

    id: str
    deployment: str
    version: int
    variant: str
    spec_digest: str
    """Digest of everything that decides how it runs; another digest means another replica."""
    state: ReplicaState
    pid: int
    started_at: float
    """Seconds since the epoch, UTC."""
    socket: str
    """Path of the unix socket on which it answers."""
    reason: str = ""
    """Why it is not ready, in a sentence."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Replica:
        return cls(**{**raw, "state": ReplicaState(raw["state"])})


@dataclass(frozen=True)
class LocalFile:
    """A file of a variant as a replica finds it on its machine."""

    name: str
    path: str
    sha256: str


@dataclass(frozen=True)
class ReplicaSpec:
    """All that a replica process is told: what to load and how to answer for it."""

    id: str
    deployment: str
    model: str
    version: int
    variant: str
    runtime: str
    files: tuple[LocalFile, ...]
    signature: Signature
    scaling: Scaling
    socket: str
    """Path of the unix socket that it shall answer on."""
    options: dict[str, Any] = field(default_factory=dict)
    drain_s: float = 30.0

    @property
    def digest(self) -> str:
        """Two replicas with the same digest are interchangeable."""
        told = self.to_dict() | {"id": "", "socket": "", "drain_s": 0}
        told["scaling"] |= {"replicas": 0}
        told["files"] = [f["sha256"] for f in told["files"]]
        text = json.dumps(told, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "deployment": self.deployment,
            "model": self.model,
            "version": self.version,
            "variant": self.variant,
            "runtime": self.runtime,
            "files": [asdict(f) for f in self.files],
            "signature": self.signature.to_dict(),
            "scaling": asdict(self.scaling),
            "socket": self.socket,
            "options": self.options,
            "drain_s": self.drain_s,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> ReplicaSpec:
        return cls(
            **{
                **raw,
                "files": tuple(LocalFile(**f) for f in raw["files"]),
                "signature": Signature.from_dict(raw["signature"]),
                "scaling": Scaling(**raw["scaling"]),
            }
        )
