"""Models, versions, evidence and files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from maas.client.answers import PublishedVersion, VersionDetails
from maas.client.http.calls import ApiCall, ApiReply, ComputeStep, Flow, encode, path
from maas.domain.errors import ArtifactCorrupt, InvalidInput
from maas.domain.models import Evidence, File, Manifest, Variant
from maas.domain.names import ModelRef, checked_name, checked_sha256

UPLOAD_TIMEOUT_S = 24 * 3600.0
"""For one file; an idle connection fails earlier, after the timeout of the client."""


def models() -> ApiCall[list[dict[str, Any]]]:
    """All models by name: `name`, `task`, number of `versions`, `latest` version, times."""
    return ApiCall("GET", path("api", "v1", "models"), lambda r: _list(r, "models"), safe=True)


def model(name: str) -> ApiCall[dict[str, Any]]:
    """One model with a summary of each version, oldest first. Raises NotFound."""
    return ApiCall("GET", _model_path(name), ApiReply.json, safe=True)


def version(ref: str) -> ApiCall[VersionDetails]:
    """A version with manifest and evidence; `ref` is `MODEL` (its newest) or `MODEL:VERSION`.

    Raises NotFound.
    """
    return ApiCall("GET", _version_path(ref), _details, safe=True)


def evidence(ref: str) -> Flow[tuple[Evidence, ...]]:
    """The evidence of a version: values, and how each was obtained. Raises NotFound."""
    details: VersionDetails = yield version(ref)
    return details.evidence


def add_evidence(ref: str, item: Evidence) -> ApiCall[None]:
    """Add evidence to a version. Its file, if it has one, must be uploaded first."""
    return ApiCall(
        "POST", _version_path(ref) + "/evidence", lambda _: None, body=encode(item.to_dict())
    )


def add_variant(ref: str, variant: Variant) -> ApiCall[Variant]:
    """Add a variant to a version. Its files must be uploaded first.

    Adding the same variant again changes nothing. Raises Conflict if another has its name.
    """
    return ApiCall(
        "POST",
        _version_path(ref) + "/variants",
        lambda reply: Variant.from_dict(reply.json()),
        safe=True,
        body=encode(variant.to_dict()),
    )


def commit(manifest: Manifest) -> ApiCall[PublishedVersion]:
    """Publish a manifest whose files are uploaded. Equal manifests are one version."""

    def parse(reply: ApiReply) -> PublishedVersion:
        raw = reply.json()
        return PublishedVersion(
            str(raw["model"]), int(raw["number"]), str(raw["digest"]), reply.status == 201
        )

    return ApiCall(
        "POST",
        _model_path(manifest.model) + "/versions",
        parse,
        safe=True,
        body=encode(manifest.to_dict()),
    )


def stored_size(sha256: str) -> ApiCall[int | None]:
    """Size in bytes of the stored file with this SHA-256; None if there is none."""

    def parse(reply: ApiReply) -> int | None:
        return None if reply.status == 404 else int(reply.headers.get("content-length", 0))

    return ApiCall("HEAD", _file_path(sha256), parse, safe=True, allow=frozenset({404}))


def upload(file: str | Path, name: str | None = None) -> Flow[File]:
    """Upload a file under its SHA-256 as a stream; a stored file is not sent again.

    `name`: of the file in a manifest; default: its own name.
    """
    source = Path(file)
    stored: File = yield ComputeStep(lambda: file_of(source, name))
    if (yield stored_size(stored.sha256)) != stored.size:
        yield ApiCall(
            "PUT",
            _file_path(stored.sha256),
            ApiReply.json,
            safe=True,
            file=source,
            content_type="application/octet-stream",
            timeout=UPLOAD_TIMEOUT_S,
        )
    return stored


def download(sha256: str) -> ApiCall[bytes]:
    """The content of the stored file with this SHA-256. Raises NotFound, ArtifactCorrupt."""

    def parse(reply: ApiReply) -> bytes:
        if hashlib.sha256(reply.body).hexdigest() != sha256:
            raise ArtifactCorrupt(f"the downloaded file does not have the SHA-256 {sha256}")
        return reply.body

    return ApiCall("GET", _file_path(sha256), parse, safe=True)


def file_of(source: Path, name: str | None = None) -> File:
    """Name, SHA-256 and size of a file on this machine. Raises InvalidInput if it is unreadable."""
    try:
        with source.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return File(name or source.name, sha256, source.stat().st_size)
    except OSError as error:
        raise InvalidInput(f"{source}: {error.strerror or error}") from None


def _details(reply: ApiReply) -> VersionDetails:
    return VersionDetails.from_dict(reply.json())


def _list(reply: ApiReply, key: str) -> list[dict[str, Any]]:
    return list(reply.json()[key])


def _model_path(name: str) -> str:
    return path("api", "v1", "models", checked_name(name, "model"))


def _version_path(ref: str) -> str:
    parsed = ModelRef.parse(ref)
    return _model_path(parsed.model) + path("versions", parsed.version or "latest")


def _file_path(sha256: str) -> str:
    return path("api", "v1", "files", checked_sha256(sha256))
