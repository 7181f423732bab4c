"""Routes of deployments: the desired state, and how it compares with the actual state."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Response

from maas.control.api.principal import Principal, guarded_router, requires
from maas.control.api.request_bodies import DeploymentBody
from maas.control.api.views import deployment_view
from maas.control.publishing.gates import check_gate
from maas.control.reconciliation.plans import default_scaling
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
"""Attempts of a change that conflicts with concurrent ones."""


@router.get("/api/v1/deployments", dependencies=[requires(Scope.READ)])
async def list_deployments(services: UseServices) -> dict[str, Any]:
    """All deployments, by name."""
    deployments = await asyncio.to_thread(services.stores.deployments.list)
    state = services.reconciler.state
    return {"deployments": [deployment_view(state, d) for d in deployments]}


@router.get("/api/v1/deployments/{name}", dependencies=[requires(Scope.READ)])
async def get_deployment(name: str, services: UseServices) -> dict[str, Any]:
    """A deployment, the number of its ready replicas, and why replicas are not ready."""
    checked_name(name, "deployment")
    deployment = await asyncio.to_thread(services.stores.deployments.get, name)
    return deployment_view(services.reconciler.state, deployment)


@router.put("/api/v1/deployments/{name}")
async def put_deployment(
    name: str,
    body: DeploymentBody,
    services: UseServices,
    principal: Annotated[Principal, requires(Scope.WRITE)],
) -> dict[str, Any]:
    """Sets the desired state. Omitted fields keep their value, or get their default if the
    deployment is new."""
    stored = await asyncio.to_thread(_put, services, name, body, principal.key_name)
    services.reconciler.clear_failures(name)
    await services.reconciler.changed()
    return deployment_view(services.reconciler.state, stored)


@router.delete("/api/v1/deployments/{name}", status_code=204)
async def delete_deployment(
    name: str, services: UseServices, principal: Annotated[Principal, requires(Scope.WRITE)]
) -> Response:
    """Deletes a deployment, but not its model."""
    checked_name(name, "deployment")
    await asyncio.to_thread(services.stores.deployments.delete, name, principal.key_name)
    await services.reconciler.changed()
    return Response(status_code=204)


@router.post("/api/v1/deployments/{name}/rollback")
async def rollback_deployment(
    name: str, services: UseServices, principal: Annotated[Principal, requires(Scope.WRITE)]
) -> dict[str, Any]:
    """Restores the previous revision of the deployment as a new revision."""
    checked_name(name, "deployment")
    rollback = services.stores.deployments.rollback
    stored = await asyncio.to_thread(rollback, name, principal.key_name)
    await services.reconciler.changed()
    return deployment_view(services.reconciler.state, stored)


def _put(services: Services, name: str, body: DeploymentBody, actor: str) -> Deployment:
    """Puts the deployment, again if a concurrent change made the values of omitted fields stale."""
    checked_name(name, "deployment")
    checked_name(body.model, "model")
    for _ in range(PUT_ATTEMPTS - 1):
        with contextlib.suppress(RevisionConflict):
            return _put_once(services, name, body, actor)
    return _put_once(services, name, body, actor)


def _put_once(services: Services, name: str, body: DeploymentBody, actor: str) -> Deployment:
    """Raises RevisionConflict if a concurrent request put another revision."""
    present: Deployment | None = None
    with contextlib.suppress(NotFound):
        present = services.stores.deployments.get(name)
    targets, threads = _targets(services, body, present)
    if present is not None:
        scaling, gate = present.scaling, present.gate
    else:
        first = services.stores.versions.get(body.model, targets[0].version if targets else None)
        scaling, gate = default_scaling(first.manifest.task), ""
    gate = gate if body.gate is None else body.gate.strip()
    if threads is not None:
        scaling = replace(scaling, threads=threads)
    desired = Deployment(
        name=name,
        model=body.model,
        targets=targets,
        scaling=body.scaling.over(scaling) if body.scaling else scaling,
        # Not the present value: another deployment may become the default meanwhile.
        default=bool(body.default),
        gate=gate,
    )
    if gate:
        _check_gate(services, desired)
    if present is not None:
        default = present.default if body.default is None else body.default
        if replace(desired, default=default, revision=present.revision) == present:
            # No change, for example a retry: a new revision would hide the previous one from
            # a rollback.
            return present
    after = 0 if present is None else present.revision
    return services.stores.deployments.put(desired, actor, after=after)


def _targets(
    services: Services, body: DeploymentBody, present: Deployment | None
) -> tuple[tuple[Target, ...], int | None]:
    """The targets, whose versions and variants exist, and the threads that the best variant was
    measured with, if the body asks for `auto`."""
    versions = services.stores.versions
    if present is not None and _keeps_targets(body, present):
        return present.targets, None
    if body.targets is None:
        version = versions.get(body.model, body.version)
        name, threads = _variant(
            services, version, body.variant or _present_variant(present, version)
        )
        return (Target(version.number, name),), threads
    if body.version is not None or body.variant is not None:
        raise InvalidInput(
            "expected either targets, or version and variant; got both", field="targets"
        )
    targets = []
    for target in body.targets:
        version = versions.get(body.model, target.version)
        name, _ = _variant(services, version, target.variant)
        targets.append(Target(target.version, name, target.weight))
    return tuple(targets), None


def _keeps_targets(body: DeploymentBody, present: Deployment) -> bool:
    """Whether the body sets other fields only.

    A request that only adds a replica must neither move traffic to the newest version nor end a
    split of the traffic.
    """
    if body.model != present.model or body.targets is not None:
        return False
    others = (body.scaling, body.default, body.gate) != (None, None, None)
    return others and body.version is None and body.variant is None


def _present_variant(present: Deployment | None, version: Version) -> str | None:
    """The variant of `version` in the present deployment, if there is exactly one.

    A request that names no variant, for example to change the scaling, keeps the engine.
    """
    if present is None or present.model != version.model:
        return None
    variants = {target.variant for target in present.targets if target.version == version.number}
    return variants.pop() if len(variants) == 1 else None


def _variant(services: Services, version: Version, name: str | None) -> tuple[str, int | None]:
    if name != AUTO:
        return version.variant(name).name, None
    evidence = services.stores.versions.evidence(version.model, version.number)
    variant, threads = best_variant(version, evidence)
    return variant.name, threads


def _check_gate(services: Services, deployment: Deployment) -> None:
    """Raises Conflict with the reason if a target's evidence does not satisfy the gate."""
    versions = services.stores.versions
    for target in deployment.targets:
        version = versions.get(deployment.model, target.version)
        evidence = versions.evidence(deployment.model, target.version)
        check_gate(deployment.gate, version, version.variant(target.variant), evidence)
