"""A file at an `https://` address, verified by the SHA-256 that the caller names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import httpx2

from maas.domain.errors import InvalidInput
from maas.domain.names import shown
from maas.lifecycle.sources.base import Fetched, SourceRequest, checked_file_name
from maas.lifecycle.sources.download import Download, download
from maas.lifecycle.sources.local import from_path
from maas.lifecycle.sources.workspace import ExpectedDigest, PartialDownload, is_whole


def fetch(request: SourceRequest, folder: Path) -> Fetched:
    """Fetches the file, resuming an earlier download. Raises the errors of `download`."""
    if request.sha256 is None:
        raise InvalidInput(
            "an https:// source needs --sha256 with the digest that its publisher states: it "
            "identifies the file, whatever the server sends",
            field="sha256",
        )
    url = _checked_url(request.source)
    target = folder / checked_file_name(request.file or unquote(url.path))
    digest = ExpectedDigest(request.sha256)
    if not is_whole(target, digest):
        source = Download(url, digest, headers={"user-agent": "openmaas"})
        download(source, PartialDownload(target, request.sha256), request.access, request.progress)
    # A query may be a signature that grants access to the file.
    address = str(url.copy_with(query=None, fragment=None))
    origin = {"kind": "https", "uri": address, "sha256": request.sha256}
    return from_path(target, replace(request, file=None), folder, origin)


def _checked_url(text: str) -> httpx2.URL:
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL as error:
        raise InvalidInput(f"source is not a valid address: {error}", field="source") from None
    if url.scheme != "https" or not url.host:
        raise InvalidInput(f"an address must start with https://; got {shown(text, 100)}")
    if url.userinfo:
        raise InvalidInput("an address must not contain a user name or password")
    return url
