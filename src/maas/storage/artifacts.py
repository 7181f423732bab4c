"""The artifact store: files of published versions, each under its SHA-256.

Both stores have the layout `sha256/<first two digits>/<64 digits>`. A stored file is complete and
durable. Its digest is verified when it is written and again when it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from maas.domain.errors import InvalidInput
from maas.domain.names import shown
from maas.storage.bucket_artifacts import ObjectArtifacts, S3Options
from maas.storage.local_artifacts import LocalArtifacts

__all__ = ["ArtifactStore", "LocalArtifacts", "ObjectArtifacts", "S3Options", "open_artifacts"]


class ArtifactStore(Protocol):
    """Interface of an artifact store."""

    def size(self, sha256: str) -> int | None:
        """Size of a stored file in bytes; None if there is no such file."""

    def put(self, sha256: str, chunks: Iterable[bytes]) -> int:
        """Stores a file; returns its size in bytes. Durable on return.

        If the file exists already, `chunks` is not read. Raises InvalidInput if the content has
        another digest (nothing is stored then), OutOfSpace, StorageFailed.
        """

    def get(self, sha256: str) -> Iterator[bytes]:
        """The file in chunks. Raises NotFound at once, ArtifactCorrupt after the last chunk."""

    def fetch(self, sha256: str, to: Path) -> Path:
        """Path of a verified copy, `to/<sha256>`. A damaged copy is replaced.

        Raises NotFound, ArtifactCorrupt if the store's own file is damaged, OutOfSpace.
        """

    def sweep(self, older_than_s: float) -> int:
        """Removes uploads that were abandoned at least this long ago; returns their number."""


def open_artifacts(url: str, s3: S3Options | None = None) -> ArtifactStore:
    """The store at `file:///path` or `s3://bucket/prefix`. Does no I/O.

    Raises InvalidInput for any other URL.
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
