"""Routes of jobs, which run where data and code are and report their progress here."""

from __future__ import annotations

import re
import secrets
from typing import Annotated, Any

from fastapi import Query

from maas.control.api.principal import guarded_router, requires
from maas.control.api.request_bodies import JobBody, JobChangeBody
from maas.control.routes import UseServices
from maas.domain.errors import InvalidInput
from maas.domain.jobs import JobState
from maas.domain.keys import Scope
from maas.domain.names import checked_name, shown

router = guarded_router("jobs")

_ID = re.compile(r"[a-z0-9][a-z0-9-]{3,62}")


@router.get("/api/v1/jobs", dependencies=[requires(Scope.READ)])
def list_jobs(
    services: UseServices,
    kind: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """Jobs, newest first."""
    return {"jobs": [job.to_dict() for job in services.stores.jobs.list(kind, limit)]}


@router.get("/api/v1/jobs/{job_id}", dependencies=[requires(Scope.READ)])
def get_job(job_id: str, services: UseServices) -> dict[str, Any]:
    """A job with its progress and result."""
    return services.stores.jobs.get(job_id).to_dict()


@router.post("/api/v1/jobs", status_code=201, dependencies=[requires(Scope.WRITE)])
def create_job(body: JobBody, services: UseServices) -> dict[str, Any]:
    """Registers a job that runs on the caller's side."""
    job_id = body.id or secrets.token_hex(6)
    if not _ID.fullmatch(job_id):
        raise InvalidInput(
            "id must be 4 to 63 of a-z, 0-9 or '-', starting with a letter or digit; "
            f"got {shown(job_id)}",
            field="id",
        )
    checked_name(body.name, "name")
    return services.stores.jobs.create(body.to_domain(job_id)).to_dict()


@router.patch("/api/v1/jobs/{job_id}", dependencies=[requires(Scope.WRITE)])
def update_job(job_id: str, body: JobChangeBody, services: UseServices) -> dict[str, Any]:
    """Stores a report of the job. The response has `cancel_requested`: true if the job must
    stop."""
    updated = services.stores.jobs.update(
        job_id,
        state=None if body.state is None else JobState(body.state),
        progress=None if body.progress is None else body.progress.to_domain(),
        result=body.result,
        error=body.error,
    )
    return updated.to_dict()


@router.post("/api/v1/jobs/{job_id}/cancel", dependencies=[requires(Scope.WRITE)])
def cancel_job(job_id: str, services: UseServices) -> dict[str, Any]:
    """Requests that a job stops; it does so at its next step."""
    return services.stores.jobs.request_cancel(job_id).to_dict()
