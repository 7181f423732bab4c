"""The description of the whole API."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from maas.control.openapi import describe
from maas.control.principal import guarded_router, needs
from maas.domain.keys import Scope

router = guarded_router("openapi")


@router.get("/openapi.json", dependencies=[needs(Scope.READ)], include_in_schema=False)
def get_openapi(request: Request) -> dict[str, Any]:
    """OpenAPI 3.1 of control and of what the gateway answers itself."""
    return describe(request.app)
