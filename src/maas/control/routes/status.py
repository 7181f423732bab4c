"""The route of the overall status."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from maas.control.api.principal import guarded_router, requires
from maas.control.api.views import deployment_view, replica_views
from maas.control.machine import machine, runtimes
from maas.control.routes import UseServices
from maas.domain.keys import Scope
from maas.version import __version__

router = guarded_router("status")


@router.get("/api/v1/status", dependencies=[requires(Scope.READ)])
async def get_status(services: UseServices) -> dict[str, Any]:
    """Desired state, actual state, and why the two differ."""
    deployments = await asyncio.to_thread(services.stores.deployments.list)
    state = services.reconciler.state
    return {
        "version": __version__,
        "uptime_s": round(time.time() - services.started_at, 3),
        "deployments": [
            deployment_view(state, d) | {"replicas": replica_views(state, d.name)}
            for d in deployments
        ],
        "gateways": services.collector.gateways,
        "artifacts_url": services.settings.artifacts_url,
        "database": services.stores.database_name,
        "machine": machine(),
        "runtimes": await asyncio.to_thread(runtimes),
    }
