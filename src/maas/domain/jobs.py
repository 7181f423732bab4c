"""Jobs: a build, an evaluation or an optimization in a process of its own."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    """The job's process stopped reporting; the job can be resumed."""

    @property
    def is_final(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True)
class Progress:
    """Progress of a job: `done` of `total` steps (epochs, batches, rows), and what to show."""

    done: int = 0
    total: int = 0
    message: str = ""
    values: dict[str, float] = field(default_factory=dict)
    """For example `{"loss": 0.31, "val_loss": 0.35}`."""
    eta_seconds: float | None = None


@dataclass(frozen=True)
class Job:
    id: str
    kind: str
    """build | evaluate | optimize"""
    name: str
    """Name of the model."""
    state: JobState
    progress: Progress = field(default_factory=Progress)
    spec: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    cancel_requested: bool = False
    created_at: float = 0.0
    updated_at: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Job:
        return cls(
            **{
                **raw,
                "state": JobState(raw["state"]),
                "progress": Progress(**raw.get("progress", {})),
            }
        )
