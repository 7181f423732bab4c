"""An artifact store in a directory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from maas.domain.errors import NotFound
from maas.domain.names import checked_sha256
from maas.storage import files


class LocalArtifacts:
    """An `ArtifactStore` in a directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._staging = root / "staging"

    def size(self, sha256: str) -> int | None:
        path = self._path(sha256)
        with files.storage_errors(f"get the size of {path}"):
            try:
                return path.lstat().st_size
            except FileNotFoundError:
                return None

    def put(self, sha256: str, chunks: Iterable[bytes]) -> int:
        size = self.size(sha256)
        if size is None:
            path = self._path(sha256)
            return files.write_verified(chunks, sha256, path, self._staging)
        with files.storage_errors(f"store {sha256}"):
            # The writer may not have synced the folder yet, but `put` promises durability.
            files.sync_dir(self._path(sha256).parent)
        return size

    def get(self, sha256: str) -> Iterator[bytes]:
        path = self._path(sha256)
        if self.size(sha256) is None:
            raise NotFound(f"there is no file {sha256} in the artifact store", sha256=sha256)
        return files.verified(files.read_chunks(path), sha256, str(path))

    def fetch(self, sha256: str, to: Path) -> Path:
        return files.fetch_verified(lambda: self.get(sha256), sha256, to)

    def sweep(self, older_than_s: float) -> int:
        return files.sweep(self._staging, older_than_s)

    def _path(self, sha256: str) -> Path:
        return self._root / "sha256" / checked_sha256(sha256)[:2] / sha256
