"""Routes of models, their versions, variants and evidence."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Response

from maas.control.api.principal import Principal, guarded_router, requires
from maas.control.api.request_bodies import EvidenceBody, ManifestBody, VariantBody
from maas.control.routes import UseServices
from maas.control.services import Services
from maas.domain.errors import InvalidInput
from maas.domain.keys import Scope
from maas.domain.models import Version
from maas.domain.names import ModelRef, checked_name, shown

router = guarded_router("models")


@router.get("/api/v1/models", dependencies=[requires(Scope.READ)])
def list_models(services: UseServices) -> dict[str, Any]:
    """All models, by name."""
    return {"models": services.stores.versions.models()}


@router.get("/api/v1/models/{model}", dependencies=[requires(Scope.READ)])
def get_model(model: str, services: UseServices) -> dict[str, Any]:
    """A model with a summary of each version."""
    versions = services.stores.versions.list(checked_name(model, "model"))
    return {"name": model, "versions": [_summary(version) for version in versions]}


@router.get("/api/v1/models/{model}/versions/{number}", dependencies=[requires(Scope.READ)])
def get_version(model: str, number: str, services: UseServices) -> dict[str, Any]:
    """A version with its manifest and evidence; `latest` is the newest version."""
    version = _version(services, model, number)
    evidence = services.stores.versions.evidence(model, version.number)
    return _identity(version) | {
        "created_by": version.created_by,
        "manifest": version.manifest.to_dict(),
        "variants": [variant.to_dict() for variant in version.variants],
        "evidence": [item.to_dict() for item in evidence],
    }


@router.post("/api/v1/models/{model}/versions", status_code=201)
def publish_version(
    model: str,
    body: ManifestBody,
    response: Response,
    services: UseServices,
    principal: Annotated[Principal, requires(Scope.WRITE)],
) -> dict[str, Any]:
    """Publishes a manifest whose files are stored: 201 if the version is new, 200 if it exists."""
    manifest = body.to_domain()
    if manifest.model != model:
        raise InvalidInput(
            f"model must be {shown(model)} as in the path; the manifest has {manifest.model}",
            field="model",
        )
    version, is_new = services.publisher.publish(manifest, principal.key_name)
    response.status_code = 201 if is_new else 200
    return _identity(version)


@router.post("/api/v1/models/{model}/versions/{number}/variants", status_code=201)
def add_variant(
    model: str,
    number: str,
    body: VariantBody,
    response: Response,
    services: UseServices,
    principal: Annotated[Principal, requires(Scope.WRITE)],
) -> dict[str, Any]:
    """Adds a variant whose files are stored to a version: 201 if it is new, 200 if it exists. The
    manifest does not change."""
    version = _version(services, model, number)
    variant = body.to_domain()
    _, is_new = services.publisher.add_variant(
        version.model, version.number, variant, principal.key_name
    )
    response.status_code = 201 if is_new else 200
    return variant.to_dict()


@router.post(
    "/api/v1/models/{model}/versions/{number}/evidence",
    status_code=201,
    dependencies=[requires(Scope.WRITE)],
)
def add_evidence(
    model: str, number: str, body: EvidenceBody, services: UseServices
) -> dict[str, Any]:
    """Adds a measurement to a version. Its file, if any, must be stored."""
    version = _version(services, model, number)
    evidence = body.to_domain()
    services.publisher.add_evidence(model, version.number, evidence)
    return evidence.to_dict()


def _version(services: Services, model: str, number: str) -> Version:
    ref = ModelRef.parse(model if number == "latest" else f"{model}:{number}")
    return services.stores.versions.get(ref.model, ref.version)


def _identity(version: Version) -> dict[str, Any]:
    return {
        "model": version.model,
        "number": version.number,
        "digest": version.manifest.digest,
        "created_at": version.created_at,
    }


def _summary(version: Version) -> dict[str, Any]:
    return {
        "number": version.number,
        "created_at": version.created_at,
        "created_by": version.created_by,
        "digest": version.manifest.digest,
        "task": str(version.manifest.task),
        "variants": [variant.name for variant in version.variants],
    }
