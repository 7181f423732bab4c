"""The artifact store: files of published versions, each under its SHA-256.

Both stores have one layout: `sha256/<first two digits>/<64 digits>`. What is there is whole,
durable and was what its name says when it was written; reading checks it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from maas.domain.errors import InvalidInput
from maas.domain.names import shown
from maas.storage.local_artifacts import LocalArtifacts
from maas.storage.object_artifacts import ObjectArtifacts, S3Options

__all__ = ["ArtifactStore", "LocalArtifacts", "ObjectArtifacts", "S3Options", "open_artifacts"]


class ArtifactStore(Protocol):
    def size(self, sha256: str) -> int | None:
        """Bytes of a stored file; None if it is not there."""

    def put(self, sha256: str, chunks: Iterable[bytes]) -> int:
        """Stores a file; returns its size in bytes. Durable on return.

        A file that is there already is success, and `chunks` is left unread. Raises InvalidInput
        if the digest is another (then nothing is stored), OutOfSpace, StorageFailed.
        """

    def get(self, sha256: str) -> Iterator[bytes]:
        """The file in pieces. Raises NotFound at once, ArtifactCorrupt after the last piece."""

    def fetch(self, sha256: str, to: Path) -> Path:
        """A verified copy at `to/<sha256>`; one that is there and damaged is replaced.

        Raises NotFound, ArtifactCorrupt if the store's own file is damaged, OutOfSpace.
        """

    def sweep(self, older_than_s: float) -> int:
        """Removes uploads that were abandoned so many seconds ago; returns how many."""


def open_artifacts(url: str, s3: S3Options | None = None) -> ArtifactStore:
    """The store at `file:///path` or `s3://bucket/prefix`; asks nobody yet.

    Raises InvalidInput for a URL that is no store.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3":
        return ObjectArtifacts(parts.netloc, parts.path.strip("/"), s3 or S3Options())
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and len(parts.path) > 1:
        return LocalArtifacts(Path(unquote(parts.path)))
    raise InvalidInput(
        f"artifacts_url must be file:///path or s3://bucket/prefix; got {shown(url)}",
        field="artifacts_url",
    )
