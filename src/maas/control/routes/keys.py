"""Routes of API keys."""

from __future__ import annotations

import asyncio
from typing import Any

from maas.control.api.principal import guarded_router, requires
from maas.control.api.request_bodies import KeyBody
from maas.control.routes import UseServices
from maas.domain.keys import Scope
from maas.domain.names import checked_name

router = guarded_router("keys")


@router.get("/api/v1/keys", dependencies=[requires(Scope.ADMIN)])
def list_keys(services: UseServices) -> dict[str, Any]:
    """All keys, including revoked ones, without their tokens."""
    return {"keys": [key.to_dict() for key in services.stores.keys.list()]}


@router.post("/api/v1/keys", status_code=201, dependencies=[requires(Scope.ADMIN)])
async def create_key(body: KeyBody, services: UseServices) -> dict[str, Any]:
    """Creates a key. Only this response has its token."""
    name = checked_name(body.name, "name")
    key, token = await asyncio.to_thread(services.stores.keys.create, name, body.to_scopes())
    await services.reconciler.changed()
    return key.to_dict() | {"token": token}


@router.delete("/api/v1/keys/{key_id}", dependencies=[requires(Scope.ADMIN)])
async def revoke_key(key_id: str, services: UseServices) -> dict[str, Any]:
    """Revokes a key permanently."""
    key = await asyncio.to_thread(services.stores.keys.revoke, key_id)
    await services.reconciler.changed()
    return key.to_dict()
