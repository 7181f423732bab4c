"""Which kinds of sources there are."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from maas.domain.errors import InvalidInput
from maas.domain.names import shown
from maas.lifecycle.sources.base import Fetched, SourceRequest

_KINDS = {
    "hf": "hub",
    "https": "https",
    "s3": "objects",
    "gs": "objects",
    "az": "objects",
    "package": "package",
    "file": "local",
}


def fetch(request: SourceRequest, folder: Path) -> Fetched:
    """The files of a source, on this machine; `folder` is for what is not here yet.

    Raises InvalidInput for a source of no known kind.
    """
    scheme, separator, _ = request.source.partition("://")
    if not separator:
        scheme = "file"
    if scheme not in _KINDS:
        raise InvalidInput(
            f"a source is a path, or starts with one of {', '.join(f'{k}://' for k in _KINDS)}; "
            f"got {shown(scheme + '://', 60)}",
            field="source",
        )
    module = import_module(f"maas.lifecycle.sources.{_KINDS[scheme]}")
    fetched: Fetched = module.fetch(request, folder)
    return fetched


def is_remote(source: str) -> bool:
    """True if its bytes come from elsewhere."""
    return source.partition("://")[0] in ("hf", "https", "s3", "gs", "az")
