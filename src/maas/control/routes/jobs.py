"""Jobs, which run where data and code are and report here."""

from __future__ import annotations

import re
import secrets
from typing import Annotated, Any

from fastapi import Query

from maas.control.api.principal import guarded_router, needs
from maas.control.api.request_bodies import JobBody, JobChangeBody
from maas.control.routes import UseServices
from maas.domain.errors import InvalidInput
from maas.domain.jobs import JobState
from maas.domain.keys import Scope
from maas.domain.names import checked_name, shown

router = guarded_router("jobs")

_ID = re.compile(r"[a-z0-9][a-z0-9-]{3,62}")


@router.get("/api/v1/jobs", dependencies=[needs(Scope.READ)])
def list_jobs(
    services: UseServices,
    kind: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """Jobs, newest first."""
    return {"jobs": [job.to_dict() for job in services.stores.jobs.list(kind, limit)]}


@router.get("/api/v1/jobs/{job_id}", dependencies=[needs(Scope.READ)])
def get_job(job_id: str, services: UseServices) -> dict[str, Any]:
    return services.stores.jobs.get(job_id).to_dict()


@router.post("/api/v1/jobs", status_code=201, dependencies=[needs(Scope.WRITE)])
def create_job(body: JobBody, services: UseServices) -> dict[str, Any]:
    """Registers a job that runs on the caller's side."""
    job_id = body.id or secrets.token_hex(6)
    if not _ID.fullmatch(job_id):
        raise InvalidInput(
            f"id must be 4 to 63 of a-z, 0-9 or '-'; got {shown(job_id)}", field="id"
        )
    checked_name(body.name, "name")
    return services.stores.jobs.create(body.to_domain(job_id)).to_dict()


@router.patch("/api/v1/jobs/{job_id}", dependencies=[needs(Scope.WRITE)])
def update_job(job_id: str, body: JobChangeBody, services: UseServices) -> dict[str, Any]:
    """A word from the job; the answer says whether it shall stop (`cancel_requested`)."""
    updated = services.stores.jobs.update(
        job_id,
        state=None if body.state is None else JobState(body.state),
        progress=None if body.progress is None else body.progress.to_domain(),
        result=body.result,
        error=body.error,
    )
    return updated.to_dict()


@router.post("/api/v1/jobs/{job_id}/cancel", dependencies=[needs(Scope.WRITE)])
def cancel_job(job_id: str, services: UseServices) -> dict[str, Any]:
    """Asks a job to stop; it does so at its next step."""
    return services.stores.jobs.request_cancel(job_id).to_dict()
