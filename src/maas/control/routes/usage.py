"""The route of usage."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Request

from maas.control.api.principal import guarded_router, requires
from maas.control.routes import UseServices
from maas.domain.errors import InvalidInput, NotFound
from maas.domain.keys import Scope
from maas.domain.names import did_you_mean, shown

router = guarded_router("usage")


@router.get("/api/v1/usage", dependencies=[requires(Scope.READ)])
async def get_usage(
    request: Request,
    services: UseServices,
    key: str | None = None,
    deployment: str | None = None,
    since: str | None = None,
) -> dict[str, Any]:
    """Totals per key, deployment, operation and day (UTC); `since` is a day, YYYY-MM-DD."""
    unknown = sorted(set(request.query_params) - {"key", "deployment", "since"})
    if unknown:
        raise InvalidInput(
            f"unknown parameter {shown(unknown[0])}; expected key, deployment or since",
            field="query",
        )
    await services.collector.collect()
    stores = services.stores
    if key is not None and await asyncio.to_thread(stores.keys.find, key) is None:
        # Suggests only keys with usage: a key with the scope `read` may not list the others.
        used = {t.key_id for t in await asyncio.to_thread(stores.usage.totals)}
        raise NotFound(f"there is no key {shown(key)}{did_you_mean(key, used)}")
    totals = await asyncio.to_thread(stores.usage.totals, key, deployment, since)
    if deployment is not None and not totals:
        await asyncio.to_thread(stores.deployments.history, deployment)  # raises NotFound
    names = {k.id: k.name for k in await asyncio.to_thread(stores.keys.list)}
    return {"usage": [t.to_dict() | {"key_name": names.get(t.key_id, "")} for t in totals]}
