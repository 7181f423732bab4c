"""Deployments: what shall run, and whether it does."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Response

from maas.control.api.principal import Principal, guarded_router, needs
from maas.control.api.request_bodies import DeploymentBody
from maas.control.api.views import deployment_view
from maas.control.publishing.gates import check_gate
from maas.control.reconciliation.plans import usual_scaling
from maas.control.routes import UseServices
from maas.control.services import Services
from maas.domain.deployments import Deployment, Target
from maas.domain.errors import InvalidInput, NotFound
from maas.domain.keys import Scope
from maas.domain.models import AUTO, Version, best_variant
from maas.domain.names import checked_name
from maas.storage.deployments import RevisionConflict

router = guarded_router("deployments")
PUT_ATTEMPTS = 5
"""To change what somebody else changes at the same time."""


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
    """What is left out is taken from what is there, so it must still be there in the end."""
    checked_name(name, "deployment")
    checked_name(body.model, "model")
    for _ in range(PUT_ATTEMPTS - 1):
        with contextlib.suppress(RevisionConflict):
            return _put_once(services, name, body, actor)
    return _put_once(services, name, body, actor)


def _put_once(services: Services, name: str, body: DeploymentBody, actor: str) -> Deployment:
    """Raises Changed if somebody else put another meanwhile."""
    present: Deployment | None = None
    with contextlib.suppress(NotFound):
        present = services.stores.deployments.get(name)
    targets, threads = _targets(services, body, present)
    if present is not None:
        scaling, gate = present.scaling, present.gate
    else:
        first = services.stores.versions.get(body.model, targets[0].version if targets else None)
        scaling, gate = usual_scaling(first.manifest.task), ""
    gate = gate if body.gate is None else body.gate.strip()
    if threads is not None:
        scaling = replace(scaling, threads=threads)
    wanted = Deployment(
        name=name,
        model=body.model,
        targets=targets,
        scaling=body.scaling.over(scaling) if body.scaling else scaling,
        # Not the present one: another deployment may become the default meanwhile.
        default=bool(body.default),
        gate=gate,
    )
    if gate:
        _hold_gate(services, wanted)
    if present is not None:
        default = present.default if body.default is None else body.default
        if replace(wanted, default=default, revision=present.revision) == present:
            # A retry, or a wish that is fulfilled: a rollback must find what was before it.
            return present
    after = 0 if present is None else present.revision
    return services.stores.deployments.put(wanted, actor, after=after)


def _targets(
    services: Services, body: DeploymentBody, present: Deployment | None
) -> tuple[tuple[Target, ...], int | None]:
    """Every target names a version and a variant that are there. With them the threads that the
    best variant was measured with, if it is the one that is asked for."""
    versions = services.stores.versions
    if present is not None and _leaves_targets(body, present):
        return present.targets, None
    if body.targets is None:
        version = versions.get(body.model, body.version)
        known = body.variant or _present_variant(present, version)
        name, threads = _variant(services, version, known)
        return (Target(version.number, name),), threads
    if body.version is not None or body.variant is not None:
        raise InvalidInput("give either targets, or version and variant; got both", field="targets")
    found = []
    for target in body.targets:
        version = versions.get(body.model, target.version)
        name, _ = _variant(services, version, target.variant)
        found.append(Target(target.version, name, target.weight))
    return tuple(found), None


def _leaves_targets(body: DeploymentBody, present: Deployment) -> bool:
    """Whether other things are asked for, and nothing of what answers: who adds a replica does not
    ask for the newest version, or for an end of the split of traffic."""
    if body.model != present.model or body.targets is not None:
        return False
    others = (body.scaling, body.default, body.gate) != (None, None, None)
    return others and body.version is None and body.variant is None


def _present_variant(present: Deployment | None, version: Version) -> str | None:
    """Of `version` in the deployment as it is, if it has one: who changes its scaling, say, does
    not ask for another engine."""
    if present is None or present.model != version.model:
        return None
    found = {target.variant for target in present.targets if target.version == version.number}
    return found.pop() if len(found) == 1 else None


def _variant(services: Services, version: Version, name: str | None) -> tuple[str, int | None]:
    if name != AUTO:
        return version.variant(name).name, None
    evidence = services.stores.versions.evidence(version.model, version.number)
    variant, threads = best_variant(version, evidence)
    return variant.name, threads


def _hold_gate(services: Services, wanted: Deployment) -> None:
    """Raises Conflict with the reason if a target's evidence does not satisfy the gate."""
    versions = services.stores.versions
    for target in wanted.targets:
        version = versions.get(wanted.model, target.version)
        evidence = versions.evidence(wanted.model, target.version)
        check_gate(wanted.gate, version, version.variant(target.variant), evidence)
