"""Deployments: what shall run, and whether it does."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Response

from maas.control.plans import usual_scaling
from maas.control.principal import Principal, guarded_router, needs
from maas.control.routes import UseServices
from maas.control.schemas import DeploymentBody
from maas.control.services import Services
from maas.control.views import deployment_view
from maas.domain.deployments import Deployment, Target
from maas.domain.errors import InvalidInput, NotFound
from maas.domain.keys import Scope
from maas.domain.names import checked_name

router = guarded_router("deployments")


@router.get("/api/v1/deployments", dependencies=[needs(Scope.READ)])
async def list_deployments(services: UseServices) -> dict[str, Any]:
    """All deployments, by name."""
    found = await asyncio.to_thread(services.stores.deployments.list)
    state = services.reconciler.state
    return {"deployments": [deployment_view(state, d) for d in found]}


@router.get("/api/v1/deployments/{name}", dependencies=[needs(Scope.READ)])
async def get_deployment(name: str, services: UseServices) -> dict[str, Any]:
    """One deployment, how many of its replicas are ready, and why not all of them."""
    checked_name(name, "deployment")
    found = await asyncio.to_thread(services.stores.deployments.get, name)
    return deployment_view(services.reconciler.state, found)


@router.put("/api/v1/deployments/{name}")
async def put_deployment(
    name: str,
    body: DeploymentBody,
    services: UseServices,
    principal: Annotated[Principal, needs(Scope.WRITE)],
) -> dict[str, Any]:
    """Sets what shall run. What is left out keeps its value, or gets its default if it is new."""
    stored = await asyncio.to_thread(_put, services, name, body, principal.key_name)
    services.reconciler.forgive(name)
    await services.reconciler.changed()
    return deployment_view(services.reconciler.state, stored)


@router.delete("/api/v1/deployments/{name}", status_code=204)
async def delete_deployment(
    name: str, services: UseServices, principal: Annotated[Principal, needs(Scope.WRITE)]
) -> Response:
    """Ends a deployment; its model stays."""
    checked_name(name, "deployment")
    await asyncio.to_thread(services.stores.deployments.delete, name, principal.key_name)
    await services.reconciler.changed()
    return Response(status_code=204)


@router.post("/api/v1/deployments/{name}/rollback")
async def rollback_deployment(
    name: str, services: UseServices, principal: Annotated[Principal, needs(Scope.WRITE)]
) -> dict[str, Any]:
    """Puts back what the deployment was before its last change, as a new revision."""
    checked_name(name, "deployment")
    rollback = services.stores.deployments.rollback
    stored = await asyncio.to_thread(rollback, name, principal.key_name)
    await services.reconciler.changed()
    return deployment_view(services.reconciler.state, stored)


def _put(services: Services, name: str, body: DeploymentBody, actor: str) -> Deployment:
    checked_name(name, "deployment")
    checked_name(body.model, "model")
    present: Deployment | None = None
    targets = _targets(services, body)
    try:
        present = services.stores.deployments.get(name)
        scaling, default = present.scaling, present.default
    except NotFound:
        first = services.stores.versions.get(body.model, targets[0].version if targets else None)
        scaling, default = usual_scaling(first.manifest.task), False
    wanted = Deployment(
        name=name,
        model=body.model,
        targets=targets,
        scaling=body.scaling.over(scaling) if body.scaling else scaling,
        default=default if body.default is None else body.default,
    )
    if present is not None and wanted == replace(present, revision=wanted.revision):
        # A retry, or a wish that is fulfilled: a rollback must find what was before it.
        return present
    return services.stores.deployments.put(wanted, actor)


def _targets(services: Services, body: DeploymentBody) -> tuple[Target, ...]:
    """Every target names a version and a variant that are there."""
    versions = services.stores.versions
    if body.targets is None:
        version = versions.get(body.model, body.version)
        return (Target(version.number, version.variant(body.variant).name),)
    if body.version is not None or body.variant is not None:
        raise InvalidInput("give either targets, or version and variant; got both", field="targets")
    return tuple(
        Target(t.version, versions.get(body.model, t.version).variant(t.variant).name, t.weight)
        for t in body.targets
    )
