"""The ends of logs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

from fastapi import Query
from fastapi.responses import PlainTextResponse

from maas.control.principal import guarded_router, needs
from maas.control.routes import UseServices
from maas.control.services import Services
from maas.control.views import replica_ids
from maas.domain.errors import NotFound
from maas.domain.keys import Scope
from maas.domain.names import checked_name, shown

router = guarded_router("logs")

MAX_BYTES = 4 << 20
_OF_PROCESSES = re.compile(r"control|gateway(-\d{1,3})?|r-[0-9a-f]{8}")


@router.get(
    "/api/v1/logs/{name}", response_class=PlainTextResponse, dependencies=[needs(Scope.ADMIN)]
)
def get_log(
    name: str, services: UseServices, lines: Annotated[int, Query(ge=1, le=100_000)] = 200
) -> PlainTextResponse:
    """The last lines of `control`, `gateway`, a replica (by id) or a deployment's replicas."""
    text = b"".join(_tail(path, lines) for path in _paths(services, checked_name(name, "name")))
    return PlainTextResponse(text, headers={"x-content-type-options": "nosniff"})


def _paths(services: Services, name: str) -> list[Path]:
    folder = services.settings.log_dir
    if _OF_PROCESSES.fullmatch(name):
        path = folder / f"{name}.log"
        if not path.is_file():
            raise NotFound(f"there is no log of {shown(name)}")
        return [path]
    ids = replica_ids(services.reconciler.state, name)
    if ids is None:
        raise NotFound(f"there is no process and no deployment {shown(name)}")
    paths = [folder / f"{replica_id}.log" for replica_id in ids]
    return [path for path in paths if path.is_file()]


def _tail(path: Path, lines: int) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - MAX_BYTES)
        file.seek(start)
        data = file.read(MAX_BYTES)
    if start:
        data = data[data.find(b"\n") + 1 :]
    return b"".join(data.splitlines(keepends=True)[-lines:])
