"""Jobs: their specification, progress and result."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from maas.domain.errors import Conflict, NotFound
from maas.domain.jobs import Job, JobState, Progress
from maas.domain.names import MAX_COMPARED, did_you_mean, shown
from maas.storage.database import Database
from maas.storage.schema import jobs, to_json


class Jobs:
    """Table of jobs."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def create(self, job: Job) -> Job:
        """Stores the job with the present time. Raises Conflict if its id exists already."""
        now = self._db.now()
        stored = replace(job, created_at=job.created_at or now, updated_at=now)
        with self._db.begin() as connection:
            if self._row_of(connection, job.id) is not None:
                raise Conflict(f"job {shown(job.id)} exists already")
            connection.execute(insert(jobs), _row(stored))
        return stored

    def get(self, job_id: str) -> Job:
        """Raises NotFound."""
        with self._db.read() as connection:
            return self._job(connection, job_id)

    def update(
        self,
        job_id: str,
        *,
        state: JobState | None = None,
        progress: Progress | None = None,
        result: dict[str, Any] | None = None,
        error: str | None = None,
    ) -> Job:
        """Stores a report of the job's process. Fields that are None keep their values.

        A lost job that reports is running again. A final state never changes: the same final state
        again has no effect, so retries are safe; any other update raises Conflict. Raises NotFound.
        """

        def work(connection: Connection) -> Job:
            job = self._job(connection, job_id, lock=True)
            if job.state.is_final:
                if state is job.state:
                    return job
                raise Conflict(
                    f"job {job_id} has {job.state} and cannot change", state=str(job.state)
                )
            revived = JobState.RUNNING if job.state is JobState.LOST else job.state
            changed = replace(
                job,
                state=state or revived,
                progress=job.progress if progress is None else progress,
                result=job.result if result is None else result,
                error=job.error if error is None else error,
                updated_at=self._db.now(),
            )
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(_row(changed)))
            return changed

        return self._db.retry(work)

    def request_cancel(self, job_id: str) -> Job:
        """Marks the job for cancellation; its process sees that and stops. Idempotent.

        Raises NotFound, and Conflict if the job has another final state.
        """

        def work(connection: Connection) -> Job:
            job = self._job(connection, job_id, lock=True)
            if job.state is JobState.CANCELLED:
                return job
            if job.state.is_final:
                raise Conflict(f"job {job_id} has {job.state} already", state=str(job.state))
            # `updated_at` stays: it is the time of the last report of the job's process.
            connection.execute(
                update(jobs).where(jobs.c.id == job_id).values(cancel_requested=True)
            )
            return replace(job, cancel_requested=True)

        return self._db.retry(work)

    def mark_lost(self, silent_for_s: float) -> int:
        """Marks queued and running jobs without a report for this long as lost; returns their
        number."""
        silent = (
            update(jobs)
            .where(
                jobs.c.state.in_([str(JobState.QUEUED), str(JobState.RUNNING)]),
                jobs.c.updated_at <= self._db.now() - silent_for_s,
            )
            .values(state=str(JobState.LOST))
        )
        with self._db.begin() as connection:
            return connection.execute(silent).rowcount

    def list(self, kind: str | None = None, limit: int = 100) -> list[Job]:
        """Jobs, newest first."""
        query = select(jobs).order_by(jobs.c.created_at.desc(), jobs.c.id).limit(max(limit, 0))
        if kind is not None:
            query = query.where(jobs.c.kind == kind)
        with self._db.read() as connection:
            return [_job(row) for row in connection.execute(query)]

    def _row_of(self, connection: Connection, job_id: str, lock: bool = False) -> Row[Any] | None:
        query = select(jobs).where(jobs.c.id == job_id)
        # SQLite has no row locks and needs none: it serializes writers.
        return connection.execute(query.with_for_update() if lock else query).one_or_none()

    def _job(self, connection: Connection, job_id: str, lock: bool = False) -> Job:
        row = self._row_of(connection, job_id, lock)
        if row is None:
            recent = select(jobs.c.id).order_by(jobs.c.created_at.desc(), jobs.c.id)
            ids = connection.scalars(recent.limit(MAX_COMPARED)).all()
            raise NotFound(f"there is no job {shown(job_id)}{did_you_mean(job_id, ids)}")
        return _job(row)


def _row(job: Job) -> dict[str, Any]:
    return asdict(job) | {
        "state": str(job.state),
        "progress": to_json(asdict(job.progress), "progress"),
        "spec": to_json(job.spec, "spec"),
        "result": to_json(job.result, "result"),
    }


def _job(row: Row[Any]) -> Job:
    return Job(
        id=row.id,
        kind=row.kind,
        name=row.name,
        state=JobState(row.state),
        progress=Progress(**json.loads(row.progress)),
        spec=json.loads(row.spec),
        result=json.loads(row.result),
        error=row.error,
        cancel_requested=row.cancel_requested,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
