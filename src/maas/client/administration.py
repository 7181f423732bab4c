"""Keys, usage, jobs, status and logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maas.client.answers import CreatedKey, job_from_dict, key_from_dict
from maas.client.http.calls import ApiCall, ApiReply, encode, path
from maas.domain.errors import InvalidInput
from maas.domain.jobs import Job
from maas.domain.keys import Key, Scope
from maas.domain.names import checked_name, shown

API = ("api", "v1")


def keys() -> ApiCall[list[Key]]:
    """All keys, without their tokens."""
    return ApiCall(
        "GET",
        path(*API, "keys"),
        lambda r: [key_from_dict(k) for k in r.json()["keys"]],
        safe=True,
    )


def create_key(name: str, scopes: Sequence[str] = ("call",)) -> ApiCall[CreatedKey]:
    """A new key; its token is shown this once. Scopes: call, read, write, admin."""
    known = [str(s) for s in Scope]
    for scope in scopes:
        if scope not in known:
            raise InvalidInput(
                f"scope must be one of {', '.join(known)}; got {shown(scope)}", field="scopes"
            )

    def parse(reply: ApiReply) -> CreatedKey:
        raw = reply.json()
        return CreatedKey(key_from_dict(raw), str(raw["token"]))

    body = encode({"name": checked_name(name, "name"), "scopes": [str(s) for s in scopes]})
    return ApiCall("POST", path(*API, "keys"), parse, body=body)


def revoke_key(key_id: str) -> ApiCall[Key]:
    """Refuses the key from now on (within a second at every gateway)."""
    return ApiCall("DELETE", path(*API, "keys", key_id), lambda r: key_from_dict(r.json()))


def usage(
    *, key: str | None = None, deployment: str | None = None, since: str | None = None
) -> ApiCall[list[dict[str, Any]]]:
    """Totals per key, deployment, operation and day (UTC). `key` is an id, `since` YYYY-MM-DD."""
    wanted = {"key": key, "deployment": deployment, "since": since}
    return ApiCall(
        "GET",
        path(*API, "usage"),
        lambda r: list(r.json()["usage"]),
        safe=True,
        params={k: v for k, v in wanted.items() if v is not None},
    )


def status() -> ApiCall[dict[str, Any]]:
    """What shall run, what runs, and why the two differ."""
    return ApiCall("GET", path(*API, "status"), ApiReply.json, safe=True)


def logs(name: str, *, lines: int = 200) -> ApiCall[str]:
    """The last lines of a log: `control`, `gateway`, a replica's id or a deployment's name."""
    return ApiCall(
        "GET",
        path(*API, "logs", name),
        lambda r: r.body.decode("utf-8", "replace"),
        safe=True,
        params={"lines": str(lines)},
    )


def jobs() -> ApiCall[list[Job]]:
    """Jobs, newest first."""
    return ApiCall(
        "GET",
        path(*API, "jobs"),
        lambda r: [job_from_dict(j) for j in r.json()["jobs"]],
        safe=True,
    )


def job(job_id: str) -> ApiCall[Job]:
    """One job."""
    return ApiCall("GET", path(*API, "jobs", job_id), _job, safe=True)


def create_job(new: Job) -> ApiCall[Job]:
    """Tells the server about a job that runs on this side."""
    return ApiCall("POST", path(*API, "jobs"), _job, body=encode(new.to_dict()))


def update_job(job_id: str, changes: dict[str, Any]) -> ApiCall[Job]:
    """Reports `state`, `progress`, `result` or `error`; the answer says if a cancel is wanted."""
    return ApiCall("PATCH", path(*API, "jobs", job_id), _job, safe=True, body=encode(changes))


def cancel_job(job_id: str) -> ApiCall[Job]:
    """Asks a job to stop; it does so at its next step and keeps what it has."""
    return ApiCall("POST", path(*API, "jobs", job_id, "cancel"), _job, safe=True)


def _job(reply: ApiReply) -> Job:
    return job_from_dict(reply.json())
