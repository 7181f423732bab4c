"""Pull: a model from a source becomes a publication that can be sent to a server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from maas.domain.errors import InvalidInput, NotFound
from maas.domain.models import Evidence, File, Manifest, Task, Variant
from maas.domain.names import checked_name, did_you_mean, shown
from maas.lifecycle.conversion import efficientnet
from maas.lifecycle.prepared_publication import PreparedPublication
from maas.lifecycle.sources.archive import UNPACKED
from maas.lifecycle.sources.base import Fetched, Progress, SourceRequest
from maas.lifecycle.sources.catalog import CATALOG, CatalogEntry, find
from maas.lifecycle.sources.kinds import fetch
from maas.lifecycle.sources.recognize import Recognized, recognize
from maas.lifecycle.sources.workspace import discard, workspace

MAX_LICENSE_CHARACTERS = 200
CONVERTERS = {"efficientnet": efficientnet.fetch}
"""Functions that fetch and convert models, by `CatalogEntry.converter`."""


@dataclass(frozen=True)
class PullOptions:
    """The caller's metadata for the model."""

    name: str | None = None
    """Name of the model; default: the name in the catalog."""
    license: str | None = None
    """License that replaces the one that the source states."""
    description: str = ""


@dataclass(frozen=True)
class Pulled:
    """A publication of pulled files, with its license."""

    publication: PreparedPublication
    license: str
    """License; empty if it is unknown."""
    license_from: str
    """Origin of the license: `you`, `the source`, `the file` or `the catalog`; empty if there is no
    license."""


@contextmanager
def pulled(request: SourceRequest, options: PullOptions) -> Iterator[Pulled]:
    """The publication of the model at `request.source`; its files exist within the context.

    `request.source` may be the name of a catalog entry. Unfinished downloads stay for the next
    attempt; they are removed when the context ends without an error, or if no runtime serves the
    files. Raises InvalidInput, UnsafeArtifact, NotFound, Forbidden, Unavailable, OutOfSpace,
    Conflict, StorageFailed.
    """
    entry = find(request.source)
    if entry is None:
        _check_bare_name(request.source)
    if entry is not None:
        request = replace(request, source=entry.source, file=request.file or entry.file)
    name = options.name or (entry.name if entry else None)
    if name is None:
        raise InvalidInput("a name for the model is required; set it with --name", field="name")
    checked_name(name, "model")
    with workspace(request) as folder, _swept(folder):
        fetched = _fetched(request, entry, folder)
        recognized = _recognized(fetched, folder)
        files = {n: _file(n, p, request.progress) for n, p in recognized.files.items()}
        _check_digest(request, files)
        license_, license_from = _license(options, fetched, recognized, entry)
        result = Pulled(
            _publication(name, options.description, (fetched, recognized), files, license_),
            license_,
            license_from,
        )
        yield result
        discard(folder)


def _check_bare_name(source: str) -> None:
    """Raises NotFound, with the closest catalog name, unless `source` is an address or a path."""
    if not source.strip():
        raise InvalidInput(
            "source must be a name in the catalog, an address or a path; got none", field="source"
        )
    try:
        if "/" in source or Path(source).expanduser().exists():
            return
    except (OSError, RuntimeError):  # a name that is too long, or an unknown home directory
        pass
    names = [entry.name for entry in CATALOG]
    hint = did_you_mean(source, names) or "; `maas models --catalog` lists its names"
    raise NotFound(
        f"there is no file or folder {shown(source, 200)}, and the catalog has no such name{hint}"
    )


@contextmanager
def _swept(folder: Path) -> Iterator[None]:
    """Removes unpacked files at the end; the next attempt unpacks the archive again."""
    try:
        yield
    finally:
        discard(folder / UNPACKED)


def _recognized(fetched: Fetched, folder: Path) -> Recognized:
    try:
        return recognize(fetched.files)
    except InvalidInput:
        # The same files would be refused again.
        discard(folder)
        raise


def _fetched(request: SourceRequest, entry: CatalogEntry | None, folder: Path) -> Fetched:
    if entry is None:
        return fetch(request, folder)
    try:
        if not entry.converter:
            return fetch(request, folder)
        return CONVERTERS[entry.converter](request, folder)
    except NotFound as missing:
        if not entry.needs:
            raise
        raise NotFound(f"{missing.message}. First: pip install {entry.needs}") from None


def _publication(
    name: str,
    description: str,
    model: tuple[Fetched, Recognized],
    files: dict[str, File],
    license_: str,
) -> PreparedPublication:
    fetched, recognized = model
    metadata = {"source": fetched.origin, "license": license_ or "unknown"} | recognized.facts
    variant = Variant(
        checked_name(recognized.variant, "variant"),
        recognized.runtime,
        tuple(files.values()),
        recognized.options,
    )
    manifest = Manifest(
        name, Task(recognized.task), recognized.signature, (variant,), description, metadata
    )
    evidence = Evidence(
        kind="source",
        values={
            "license": license_ or "unknown",
            "bytes": sum(f.size for f in files.values()),
            "files": {f.name: f.sha256 for f in files.values()},
        },
        how=fetched.origin,
        variant=variant.name,
    )
    paths = tuple((recognized.files[n], file) for n, file in files.items())
    return PreparedPublication(manifest, paths, (evidence,))


def _file(name: str, path: Path, progress: Progress) -> File:
    size = path.stat().st_size
    hasher = hashlib.sha256()
    done = 0
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            hasher.update(chunk)
            done += len(chunk)
            progress(f"checking {name}", done, size)
    return File(name, hasher.hexdigest(), size)


def _check_digest(request: SourceRequest, files: dict[str, File]) -> None:
    """Checks the caller's digest, which is of a download or of a model's only file."""
    if request.sha256 is None or request.source.startswith("https://"):
        return
    if len(files) != 1:
        raise InvalidInput(f"--sha256 is for one file; this model has {len(files)}", field="sha256")
    (file,) = files.values()
    if file.sha256 != request.sha256:
        raise InvalidInput(
            f"{file.name} should have the SHA-256 {request.sha256}; it has {file.sha256}",
            field="sha256",
        )


def _license(
    options: PullOptions, fetched: Fetched, recognized: Recognized, entry: CatalogEntry | None
) -> tuple[str, str]:
    declared = [(fetched.license, "the source"), (entry.license if entry else "", "the catalog")]
    if fetched.origin["kind"] == "package":
        # A package's metadata describe mainly its code; the catalog describes the weights.
        declared.reverse()
    for text, who in ((options.license or "", "you"), (recognized.license, "the file"), *declared):
        if text:
            clean = "".join(c for c in text if c.isprintable())
            if len(clean) > MAX_LICENSE_CHARACTERS:
                raise InvalidInput(
                    f"license must have at most {MAX_LICENSE_CHARACTERS} characters; "
                    f"got {shown(clean)}",
                    field="license",
                )
            return clean, who
    return "", ""
