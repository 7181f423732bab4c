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
"""For one file; a connection on which nothing moves for the client's timeout fails before."""


def models() -> ApiCall[list[dict[str, Any]]]:
    """All models: name, task, number of versions, newest version, times."""
    return ApiCall("GET", path("api", "v1", "models"), lambda r: _list(r, "models"), safe=True)


def model(name: str) -> ApiCall[dict[str, Any]]:
    """One model with its versions, each in a line."""
    return ApiCall("GET", _model_path(name), ApiReply.json, safe=True)


def version(ref: str) -> ApiCall[VersionDetails]:
    """A version with manifest and evidence: `version("digits")` is the newest, `"digits:3"` 3."""
    return ApiCall("GET", _version_path(ref), _details, safe=True)


def evidence(ref: str) -> Flow[tuple[Evidence, ...]]:
    """What was measured about a version, with how it was obtained."""
    details: VersionDetails = yield version(ref)
    return details.evidence


def add_evidence(ref: str, item: Evidence) -> ApiCall[None]:
    """Adds something measured to a version; its file, if it has one, must be stored already."""
    return ApiCall(
        "POST", _version_path(ref) + "/evidence", lambda _: None, body=encode(item.to_dict())
    )


def add_variant(ref: str, variant: Variant) -> ApiCall[Variant]:
    """Adds a servable form to a version; its files must be stored already. The same again changes
    nothing, so this may be sent twice."""
    return ApiCall(
        "POST",
        _version_path(ref) + "/variants",
        lambda reply: Variant.from_dict(reply.json()),
        safe=True,
        body=encode(variant.to_dict()),
    )


def commit(manifest: Manifest) -> ApiCall[PublishedVersion]:
    """Publishes a manifest whose files are stored. Equal manifests are one version, so this may
    be sent twice."""

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
    """Bytes of the stored file with this digest; None if there is none."""

    def parse(reply: ApiReply) -> int | None:
        return None if reply.status == 404 else int(reply.headers.get("content-length", 0))

    return ApiCall("HEAD", _file_path(sha256), parse, safe=True, allow=frozenset({404}))


def upload(file: str | Path, name: str | None = None) -> Flow[File]:
    """Stores a file under its SHA-256, streamed; a file that is there already is not sent.

    `name` is what the file is called in a manifest; default: its own name.
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
    """The stored file with this digest, checked against it."""

    def parse(reply: ApiReply) -> bytes:
        if hashlib.sha256(reply.body).hexdigest() != sha256:
            raise ArtifactCorrupt(f"what came is not the file {sha256}")
        return reply.body

    return ApiCall("GET", _file_path(sha256), parse, safe=True)


def file_of(source: Path, name: str | None = None) -> File:
    """The noun for a file on this machine. Raises InvalidInput if it cannot be read."""
    try:
        with source.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return File(name or source.name, sha256, source.stat().st_size)
    except OSError as wrong:
        raise InvalidInput(f"{source}: {wrong.strerror or wrong}") from None


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
