"""Models, versions, evidence and files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from maas.client.answers import Published, VersionDetails
from maas.client.http.calls import Call, Flow, Reply, Work, encode, path
from maas.domain.errors import ArtifactCorrupt, InvalidInput
from maas.domain.models import Evidence, File, Manifest, Variant
from maas.domain.names import ModelRef, checked_name, checked_sha256

UPLOAD_TIMEOUT_S = 24 * 3600.0
"""For one file; a connection on which nothing moves for the client's timeout fails before."""


def models() -> Call[list[dict[str, Any]]]:
    """All models: name, task, number of versions, newest version, times."""
    return Call("GET", path("api", "v1", "models"), lambda r: _list(r, "models"), safe=True)


def model(name: str) -> Call[dict[str, Any]]:
    """One model with its versions, each in a line."""
    return Call("GET", _model_path(name), Reply.json, safe=True)


def version(ref: str) -> Call[VersionDetails]:
    """A version with manifest and evidence: `version("digits")` is the newest, `"digits:3"` 3."""
    return Call("GET", _version_path(ref), _details, safe=True)


def evidence(ref: str) -> Flow[tuple[Evidence, ...]]:
    """What was measured about a version, with how it was obtained."""
    details: VersionDetails = yield version(ref)
    return details.evidence


def add_evidence(ref: str, item: Evidence) -> Call[None]:
    """Adds something measured to a version; its file, if it has one, must be stored already."""
    return Call(
        "POST", _version_path(ref) + "/evidence", lambda _: None, body=encode(item.to_dict())
    )


def add_variant(ref: str, variant: Variant) -> Call[Variant]:
    """Adds a servable form to a version; its files must be stored already. The same again changes
    nothing, so this may be sent twice."""
    return Call(
        "POST",
        _version_path(ref) + "/variants",
        lambda reply: Variant.from_dict(reply.json()),
        safe=True,
        body=encode(variant.to_dict()),
    )


def commit(manifest: Manifest) -> Call[Published]:
    """Publishes a manifest whose files are stored. Equal manifests are one version, so this may
    be sent twice."""

    def parse(reply: Reply) -> Published:
        raw = reply.json()
        return Published(
            str(raw["model"]), int(raw["number"]), str(raw["digest"]), reply.status == 201
        )

    return Call(
        "POST",
        _model_path(manifest.model) + "/versions",
        parse,
        safe=True,
        body=encode(manifest.to_dict()),
    )


def stored_size(sha256: str) -> Call[int | None]:
    """Bytes of the stored file with this digest; None if there is none."""

    def parse(reply: Reply) -> int | None:
        return None if reply.status == 404 else int(reply.headers.get("content-length", 0))

    return Call("HEAD", _file_path(sha256), parse, safe=True, allow=frozenset({404}))


def upload(file: str | Path, name: str | None = None) -> Flow[File]:
    """Stores a file under its SHA-256, streamed; a file that is there already is not sent.

    `name` is what the file is called in a manifest; default: its own name.
    """
    source = Path(file)
    stored: File = yield Work(lambda: file_of(source, name))
    if (yield stored_size(stored.sha256)) != stored.size:
        yield Call(
            "PUT",
            _file_path(stored.sha256),
            Reply.json,
            safe=True,
            file=source,
            content_type="application/octet-stream",
            timeout=UPLOAD_TIMEOUT_S,
        )
    return stored


def download(sha256: str) -> Call[bytes]:
    """The stored file with this digest, checked against it."""

    def parse(reply: Reply) -> bytes:
        if hashlib.sha256(reply.body).hexdigest() != sha256:
            raise ArtifactCorrupt(f"what came is not the file {sha256}")
        return reply.body

    return Call("GET", _file_path(sha256), parse, safe=True)


def file_of(source: Path, name: str | None = None) -> File:
    """The noun for a file on this machine. Raises InvalidInput if it cannot be read."""
    try:
        with source.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return File(name or source.name, sha256, source.stat().st_size)
    except OSError as wrong:
        raise InvalidInput(f"{source}: {wrong.strerror or wrong}") from None


def _details(reply: Reply) -> VersionDetails:
    return VersionDetails.from_dict(reply.json())


def _list(reply: Reply, key: str) -> list[dict[str, Any]]:
    return list(reply.json()[key])


def _model_path(name: str) -> str:
    return path("api", "v1", "models", checked_name(name, "model"))


def _version_path(ref: str) -> str:
    parsed = ModelRef.parse(ref)
    return _model_path(parsed.model) + path("versions", parsed.version or "latest")


def _file_path(sha256: str) -> str:
    return path("api", "v1", "files", checked_sha256(sha256))
