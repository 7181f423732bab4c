"""The route of logs."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Query
from fastapi.responses import PlainTextResponse

from maas.control.api.principal import guarded_router, requires
from maas.control.api.views import replica_ids
from maas.control.routes import UseServices
from maas.control.services import Services
from maas.domain.errors import NotFound
from maas.domain.keys import Scope
from maas.domain.names import checked_name, did_you_mean, shown
from maas.storage.log_files import log_tail

router = guarded_router("logs")

MAX_BYTES = 4 << 20
_PROCESS = re.compile(r"control|gateway(-\d{1,3})?|r-[0-9a-f]{8}")


@router.get(
    "/api/v1/logs/{name}", response_class=PlainTextResponse, dependencies=[requires(Scope.ADMIN)]
)
def get_log(
    name: str, services: UseServices, lines: Annotated[int, Query(ge=1, le=100_000)] = 200
) -> PlainTextResponse:
    """The last lines of `control`, `gateway`, a replica (by id) or a deployment's replicas."""
    folder = services.settings.log_dir
    tails = [
        log_tail(folder / f"{process}.log", lines, MAX_BYTES)
        for process in _processes(services, checked_name(name, "name"))
    ]
    if _PROCESS.fullmatch(name) and tails == [None]:
        raise NotFound(f"there is no log for {shown(name)}")
    text = b"".join(tail for tail in tails if tail is not None)
    return PlainTextResponse(text, headers={"x-content-type-options": "nosniff"})


def _processes(services: Services, name: str) -> list[str]:
    if _PROCESS.fullmatch(name):
        return [name]
    ids = replica_ids(services.reconciler.state, name)
    if ids is None:
        names = ["control", "gateway", *services.reconciler.state.served]
        hint = did_you_mean(name, names)
        raise NotFound(f"there is no process and no deployment {shown(name)}{hint}")
    return ids
