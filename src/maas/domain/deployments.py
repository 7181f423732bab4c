"""Deployments: callable names, their desired state, and the replicas that run for them."""

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
    """Number of replicas, and the limits of each."""

    replicas: int = 1
    max_batch: int = 64
    """Most rows in one batch for the model."""
    queue_limit: int = 256
    """Most requests queued or running in one replica; further requests are refused."""
    threads: int = 1
    """Threads per replica that the runtime may use."""

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
    """Desired state of one name: its targets, its scaling and its gate."""

    name: str
    model: str
    targets: tuple[Target, ...]
    scaling: Scaling = field(default_factory=Scaling)
    default: bool = False
    """True for the deployment that answers `/predict` without a name."""
    gate: str = ""
    """Rule that the evidence of every target must satisfy; empty: no rule."""
    revision: int = 1
    """Number of the change, from 1. A rollback is a new revision, too."""

    def __post_init__(self) -> None:
        checked_name(self.name, "deployment")
        checked_name(self.model, "model")
        if not self.targets:
            raise InvalidInput("a deployment needs at least one target", field="targets")
        if len({(t.version, t.variant) for t in self.targets}) != len(self.targets):
            raise InvalidInput("two targets have the same version and variant", field="targets")
        if sum(t.weight for t in self.targets) <= 0:
            raise InvalidInput("the weights of the targets must not all be 0", field="targets")

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
    """Actual state: one process that serves one variant."""

    id: str
    deployment: str
    version: int
    variant: str
    spec_digest: str
    """`ReplicaSpec.digest`; replicas with the same digest are interchangeable."""
    state: ReplicaState
    pid: int
    started_at: float
    """Seconds since the epoch, UTC."""
    socket: str
    """Path of the unix socket that it listens on."""
    reason: str = ""
    """Why it is not ready, as a sentence."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Replica:
        return cls(**{**raw, "state": ReplicaState(raw["state"])})


@dataclass(frozen=True)
class LocalFile:
    """A file of a variant on the replica's machine."""

    name: str
    path: str
    sha256: str


@dataclass(frozen=True)
class ReplicaSpec:
    """Configuration of a replica process: the variant to load and how to serve it."""

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
    """Path of the unix socket to listen on."""
    options: dict[str, Any] = field(default_factory=dict)
    drain_s: float = 30.0

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides how the replica serves, hexadecimal.

        Replicas with the same digest are interchangeable.
        """
        fields = self.to_dict() | {"id": "", "socket": "", "drain_s": 0}
        fields["scaling"] |= {"replicas": 0}
        fields["files"] = [f["sha256"] for f in fields["files"]]
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
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
