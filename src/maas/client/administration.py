"""Keys, usage, jobs, status and logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maas.client.answers import CreatedKey, job_from_dict, key_from_dict
from maas.client.http.calls import ApiCall, ApiReply, encode, path
from maas.domain.errors import InvalidInput
from maas.domain.jobs import Job
from maas.domain.keys import Key, Scope
from maas.domain.names import checked_name, did_you_mean, shown

API = ("api", "v1")


def keys() -> ApiCall[list[Key]]:
    """All keys, revoked ones included, without their tokens."""
    return ApiCall(
        "GET",
        path(*API, "keys"),
        lambda r: [key_from_dict(k) for k in r.json()["keys"]],
        safe=True,
    )


def create_key(name: str, scopes: Sequence[str] = ("call",)) -> ApiCall[CreatedKey]:
    """Create a key. Only this result has its token.

    `scopes`: any of call, read, write and admin. Raises InvalidInput for another scope.
    """
    names = [str(scope) for scope in Scope]
    for scope in scopes:
        if scope not in names:
            raise InvalidInput(
                f"scope must be one of {', '.join(names)}; got {shown(scope)}"
                f"{did_you_mean(scope, names)}",
                field="scopes",
            )

    def parse(reply: ApiReply) -> CreatedKey:
        raw = reply.json()
        return CreatedKey(key_from_dict(raw), str(raw["token"]))

    body = encode({"name": checked_name(name, "name"), "scopes": [str(s) for s in scopes]})
    return ApiCall("POST", path(*API, "keys"), parse, body=body)


def revoke_key(key_id: str) -> ApiCall[Key]:
    """Revoke a key for good; every gateway refuses it within a second. Raises NotFound."""
    return ApiCall("DELETE", path(*API, "keys", key_id), lambda r: key_from_dict(r.json()))


def usage(
    *, key: str | None = None, deployment: str | None = None, since: str | None = None
) -> ApiCall[list[dict[str, Any]]]:
    """Totals per key, deployment, operation and day (UTC), oldest day first.

    `key`: id of a key. `since`: first day, as YYYY-MM-DD. Each item has `day`, `key_id`,
    `key_name`, `deployment`, `operation`, `requests`, `rows`, `errors`, `compute_us` (microseconds
    of model time), `prompt_tokens` and `completion_tokens`. Raises NotFound for an unknown key.
    """
    filters = {"key": key, "deployment": deployment, "since": since}
    return ApiCall(
        "GET",
        path(*API, "usage"),
        lambda r: list(r.json()["usage"]),
        safe=True,
        params={name: value for name, value in filters.items() if value is not None},
    )


def status() -> ApiCall[dict[str, Any]]:
    """Version, machine, runtimes, and all deployments with their replicas and reasons."""
    return ApiCall("GET", path(*API, "status"), ApiReply.json, safe=True)


def logs(name: str, *, lines: int = 200) -> ApiCall[str]:
    """The last `lines` lines of a log.

    `name`: `control`, `gateway`, the id of a replica or the name of a deployment. Raises NotFound.
    """
    return ApiCall(
        "GET",
        path(*API, "logs", name),
        lambda r: r.body.decode("utf-8", "replace"),
        safe=True,
        params={"lines": str(lines)},
    )


def jobs() -> ApiCall[list[Job]]:
    """All jobs that the server knows, newest first."""
    return ApiCall(
        "GET",
        path(*API, "jobs"),
        lambda r: [job_from_dict(j) for j in r.json()["jobs"]],
        safe=True,
    )


def job(job_id: str) -> ApiCall[Job]:
    """One job. Raises NotFound."""
    return ApiCall("GET", path(*API, "jobs", job_id), _job, safe=True)


def create_job(new: Job) -> ApiCall[Job]:
    """Register a job that runs on this machine."""
    return ApiCall("POST", path(*API, "jobs"), _job, body=encode(new.to_dict()))


def update_job(job_id: str, changes: dict[str, Any]) -> ApiCall[Job]:
    """Report `state`, `progress`, `result` or `error`; the result has `cancel_requested`."""
    return ApiCall("PATCH", path(*API, "jobs", job_id), _job, safe=True, body=encode(changes))


def cancel_job(job_id: str) -> ApiCall[Job]:
    """Cancel a job: it stops at its next step and keeps its checkpoint."""
    return ApiCall("POST", path(*API, "jobs", job_id, "cancel"), _job, safe=True)


def _job(reply: ApiReply) -> Job:
    return job_from_dict(reply.json())
