"""The route of the OpenAPI document."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from maas.control.api.principal import any_key, guarded_router
from maas.control.openapi.document import describe

router = guarded_router("openapi")


@router.get("/openapi.json", dependencies=[any_key()], include_in_schema=False)
def get_openapi(request: Request) -> dict[str, Any]:
    """OpenAPI 3.1 document of the routes of control and of the gateway."""
    return describe(request.app)
