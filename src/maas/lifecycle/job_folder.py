"""A job's directory, shared by the job's process and the processes that follow it.

spec.json      the JobSpec; never changes
job.json       state, progress, result or error; replaced atomically
cancel         exists if the job was asked to stop
lock           held by the job's process while it runs, so that a crash is noticed
log            output of the process
unsent         optimize: exists until the server has the results
work/          checkpoints and finished candidates, from which a job resumes
publication/   results of a finished job for the server
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from maas.domain.errors import Conflict, NotFound
from maas.domain.jobs import Job, JobState
from maas.domain.names import NAME, did_you_mean, shown
from maas.storage.files import make_own_dir, make_private_dir


@dataclass(frozen=True)
class JobSpec:
    """Specification of a job for its process."""

    id: str
    kind: str
    """build | evaluate | optimize"""
    name: str
    """Name of the model."""
    recipe: dict[str, Any]
    directory: str
    """Base of the recipe's relative paths."""
    publication: str = ""
    """evaluate: the `publication/` of the build to evaluate."""
    options: dict[str, Any] = field(default_factory=dict)
    """optimize: the version and the options of `[optimize]`."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "kind": self.kind,
            "name": self.name,
            "recipe": self.recipe,
            "directory": self.directory,
            "publication": self.publication,
            "options": self.options,
        }


@dataclass(frozen=True)
class JobFolder:
    path: Path

    @classmethod
    def create(cls, jobs_dir: Path, kind: str, name: str, **fields: Any) -> JobFolder:
        """A new job's folder; `fields` are the further fields of JobSpec."""
        job_id = f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        folder = cls(jobs_dir / job_id)
        make_own_dir(jobs_dir)
        make_private_dir(folder.work)
        spec = JobSpec(id=job_id, kind=kind, name=name, **fields)
        now = time.time()
        folder.save(
            Job(
                id=job_id,
                kind=kind,
                name=name,
                state=JobState.QUEUED,
                spec={"recipe": spec.recipe},
                created_at=now,
                updated_at=now,
            )
        )
        # Last, because a folder with spec.json counts as a complete job.
        _write(folder.path / "spec.json", spec.to_dict())
        return folder

    @classmethod
    def open(cls, jobs_dir: Path, job_id: str) -> JobFolder:
        """The folder of a job. Raises NotFound if this machine has no job of this id."""
        folder = cls(jobs_dir / job_id)
        if not NAME.fullmatch(job_id) or not (folder.path / "spec.json").is_file():
            hint = did_you_mean(job_id, (path.parent.name for path in jobs_dir.glob("*/spec.json")))
            raise NotFound(f"there is no job {shown(job_id)} in {jobs_dir}{hint}")
        return folder

    @classmethod
    def all(cls, jobs_dir: Path) -> list[JobFolder]:
        """All jobs, newest first."""
        folders = [cls(p.parent) for p in jobs_dir.glob("*/spec.json")]
        return sorted(folders, key=lambda f: f.job().created_at, reverse=True)

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def work(self) -> Path:
        return self.path / "work"

    @property
    def publication(self) -> Path:
        return self.path / "publication"

    def spec(self) -> JobSpec:
        return msgspec.json.decode((self.path / "spec.json").read_bytes(), type=JobSpec)

    def job(self) -> Job:
        """The job's current state; LOST if its process exited without recording a final state."""
        raw = msgspec.json.decode((self.path / "job.json").read_bytes())
        job = Job.from_dict(raw)
        if job.state is JobState.RUNNING and not self.is_alive():
            # It may have recorded its final state after the first read.
            job = Job.from_dict(msgspec.json.decode((self.path / "job.json").read_bytes()))
            if job.state is JobState.RUNNING:
                job = replace(job, state=JobState.LOST)
        return replace(job, cancel_requested=self.cancel_requested)

    def save(self, job: Job) -> None:
        _write(self.path / "job.json", job.to_dict())

    @property
    def cancel_requested(self) -> bool:
        return (self.path / "cancel").exists()

    def request_cancel(self) -> None:
        (self.path / "cancel").touch()

    def clear_cancel(self) -> None:
        (self.path / "cancel").unlink(missing_ok=True)

    @property
    def is_unsent(self) -> bool:
        """Whether there are results that the server does not have: the command that waits for
        the job has not sent them yet, was killed, or did not wait."""
        return (self.path / "unsent").exists()

    def mark_unsent(self) -> None:
        (self.path / "unsent").touch()

    def mark_sent(self) -> None:
        (self.path / "unsent").unlink(missing_ok=True)

    def is_alive(self) -> bool:
        """Whether a process works on this job."""
        try:
            with self.lock(timeout_s=0):
                return False
        except Conflict:
            return True

    @contextlib.contextmanager
    def lock(self, timeout_s: float = 1.0) -> Iterator[None]:
        """Held by the one process that works on the job; the kernel releases it if that exits.

        Raises Conflict if another process holds it for longer than `timeout_s`; `is_alive` holds
        it for a moment.
        """
        handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + timeout_s
        try:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise Conflict(f"another process works on {self.path.name}") from None
                    time.sleep(0.02)
            yield
        finally:
            os.close(handle)


def _write(path: Path, value: Any) -> None:
    """Replaces the file atomically: a reader gets the old or the new content."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(msgspec.json.encode(value))
    temporary.replace(path)
