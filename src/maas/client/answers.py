"""Result types of the SDK. Each converts to plain JSON values with `to_dict`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from maas.domain.deployments import Deployment, Scaling, Target
from maas.domain.jobs import Job, JobState, Progress
from maas.domain.keys import Key, Scope
from maas.domain.models import Evidence, Manifest, Variant, Version


@dataclass(frozen=True)
class PublishedVersion:
    """The version that a publication created, or found."""

    model: str
    number: int
    digest: str
    created: bool
    """False if an equal version already existed."""

    def __str__(self) -> str:
        return f"{self.model}:{self.number}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class VersionDetails:
    """A version with its evidence."""

    version: Version
    digest: str
    evidence: tuple[Evidence, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.version.model,
            "number": self.version.number,
            "digest": self.digest,
            "created_at": self.version.created_at,
            "created_by": self.version.created_by,
            "manifest": self.version.manifest.to_dict(),
            "variants": [v.to_dict() for v in self.version.variants],
            "evidence": [e.to_dict() for e in self.evidence],
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> VersionDetails:
        manifest = Manifest.from_dict(raw["manifest"])
        published = {v.name for v in manifest.variants}
        variants = [Variant.from_dict(v) for v in raw.get("variants", ())]
        version = Version(
            model=str(raw["model"]),
            number=int(raw["number"]),
            manifest=manifest,
            created_at=float(raw.get("created_at", 0.0)),
            created_by=str(raw.get("created_by", "")),
            added=tuple(v for v in variants if v.name not in published),
        )
        evidence = tuple(Evidence.from_dict(e) for e in raw.get("evidence", ()))
        return cls(version, str(raw.get("digest", "")), evidence)


@dataclass(frozen=True)
class DeploymentView:
    """A deployment: desired state, and actual state."""

    deployment: Deployment
    ready: int
    """Number of replicas that are ready."""
    desired: int
    state: str
    """ready | starting | updating | failed | stopped"""
    reason: str = ""
    """Why `ready` differs from `desired`, in a sentence."""

    @property
    def name(self) -> str:
        return self.deployment.name

    def to_dict(self) -> dict[str, Any]:
        return self.deployment.to_dict() | {
            "ready": self.ready,
            "desired": self.desired,
            "state": self.state,
            "reason": self.reason,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> DeploymentView:
        deployment = Deployment(
            name=str(raw["name"]),
            model=str(raw["model"]),
            targets=tuple(Target(**_fields_of(Target, t)) for t in raw["targets"]),
            scaling=Scaling(**_fields_of(Scaling, raw.get("scaling", {}))),
            default=bool(raw.get("default", False)),
            gate=str(raw.get("gate", "")),
            revision=int(raw.get("revision", 1)),
        )
        return cls(
            deployment,
            ready=int(raw.get("ready", 0)),
            desired=int(raw.get("desired", deployment.scaling.replicas)),
            state=str(raw.get("state", "starting")),
            reason=str(raw.get("reason") or ""),
        )


@dataclass(frozen=True)
class CreatedKey:
    """A new key with its token, which cannot be read again."""

    key: Key
    token: str

    def to_dict(self) -> dict[str, Any]:
        return self.key.to_dict() | {"token": self.token}


def key_from_dict(raw: dict[str, Any]) -> Key:
    return Key(
        id=str(raw["id"]),
        name=str(raw["name"]),
        scopes=tuple(Scope(s) for s in raw.get("scopes", ())),
        sha256="",
        created_at=float(raw.get("created_at") or 0.0),
        revoked_at=raw.get("revoked_at"),
    )


def job_from_dict(raw: dict[str, Any]) -> Job:
    """A job; fields that a newer server adds are ignored."""
    values = _fields_of(Job, raw)
    values["progress"] = Progress(**_fields_of(Progress, raw.get("progress") or {}))
    values["state"] = JobState(raw["state"])
    return Job(**values)


def _fields_of(kind: type[Any], raw: dict[str, Any]) -> dict[str, Any]:
    """The items of `raw` that are fields of the dataclass `kind`."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in raw.items() if name in names}
