"""Kinds of sources, by the scheme of their address."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from maas.domain.errors import InvalidInput
from maas.domain.names import shown
from maas.lifecycle.sources import buckets, https, hub, local, package
from maas.lifecycle.sources.base import Fetched, SourceRequest

_FETCH: dict[str, Callable[[SourceRequest, Path], Fetched]] = {
    "hf": hub.fetch,
    "https": https.fetch,
    "s3": buckets.fetch,
    "gs": buckets.fetch,
    "az": buckets.fetch,
    "package": package.fetch,
    "file": local.fetch,
}


def fetch(request: SourceRequest, folder: Path) -> Fetched:
    """The files of a source, on this machine; missing files are downloaded to `folder`.

    Raises InvalidInput if no kind of source has the scheme, otherwise what that kind raises.
    """
    scheme, separator, _ = request.source.partition("://")
    if not separator:
        scheme = "file"
    if scheme not in _FETCH:
        raise InvalidInput(
            f"a source is a path, or starts with one of {', '.join(f'{k}://' for k in _FETCH)}; "
            f"got {shown(scheme + '://', 60)}",
            field="source",
        )
    return _FETCH[scheme](request, folder)


def is_remote(source: str) -> bool:
    """Whether the files are on another machine."""
    return source.partition("://")[0] in ("hf", "https", "s3", "gs", "az")
