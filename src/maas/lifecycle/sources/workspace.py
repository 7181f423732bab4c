"""Folders of unfinished downloads, and files that are downloaded over several runs."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from maas.domain.errors import BodyTooLarge, Conflict, InvalidInput, OutOfSpace, StorageFailed
from maas.lifecycle.sources.base import Progress, SourceRequest
from maas.storage.files import make_own_dir, make_private_dir, storage_errors

CHUNK_BYTES = 1 << 20


@contextmanager
def workspace(request: SourceRequest) -> Iterator[Path]:
    """The source's folder, locked for this process. Raises Conflict if another process has it."""
    key = hashlib.sha256(f"{request.source}\n{request.file or ''}".encode()).hexdigest()[:24]
    folder = request.access.folder / key
    with storage_errors(f"use {folder}"):
        make_own_dir(request.access.folder)
        make_private_dir(folder)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another maas pull of {request.source} is running") from None
        yield folder
    finally:
        os.close(lock)


def discard(folder: Path) -> None:
    """Removes a folder whose files are published or no longer needed."""
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class ExpectedDigest:
    """Digest of a complete file."""

    value: str
    kind: str = "SHA-256"
    """`SHA-256`, or `git object id`, which is the Hub's digest of small files."""

    def of(self, path: Path) -> str:
        with path.open("rb") as file:
            if self.kind == "SHA-256":
                return hashlib.file_digest(file, "sha256").hexdigest()
            hasher = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
            while chunk := file.read(CHUNK_BYTES):
                hasher.update(chunk)
            return hasher.hexdigest()


def is_whole(target: Path, digest: ExpectedDigest) -> bool:
    """Whether an earlier run completed this file and it is unchanged since."""
    with storage_errors(f"read {target}"):
        return target.is_file() and digest.of(target) == digest.value


class PartialDownload:
    """A file that is downloaded, possibly over several runs of the program."""

    def __init__(self, target: Path, identity: str) -> None:
        """`identity` identifies the content (an ETag, a digest); a partial file with another
        identity is discarded."""
        self.target = target
        self._data = target.with_name(f"{target.name}.part")
        self._note = target.with_name(f"{target.name}.part.json")
        with storage_errors(f"write {self._data}"):
            if self._stored_identity() != identity:
                self.forget()
                self._note.write_bytes(msgspec.json.encode(identity))

    @property
    def size(self) -> int:
        """Bytes downloaded so far."""
        try:
            return self._data.stat().st_size
        except FileNotFoundError:
            return 0

    def forget(self) -> None:
        self._data.unlink(missing_ok=True)

    def grow(self, chunks: Iterable[bytes], start: int, limits: DownloadLimits) -> None:
        """Writes `chunks` from byte `start` on. Raises OutOfSpace, BodyTooLarge."""
        done = start
        limits.check_total(self._data.parent, done)
        mode = "r+b" if self._data.exists() else "wb"
        with storage_errors(f"write {self._data}"), self._data.open(mode) as file:
            file.truncate(start)
            file.seek(start)
            for chunk in chunks:
                done += len(chunk)
                limits.check(done)
                file.write(chunk)
                limits.progress(self.target.name, done, limits.total)

    def finish(self, digest: ExpectedDigest | None) -> None:
        """Renames the file to its target. Raises InvalidInput and discards the file if it has
        another digest; None: no digest is known."""
        with storage_errors(f"read {self._data}"):
            if not self._data.exists():
                self._data.touch()  # a file of no bytes
            actual = digest.of(self._data) if digest else ""
            if digest and actual != digest.value:
                size = self.size
                self.forget()
                raise InvalidInput(
                    f"{self.target.name} should have the {digest.kind} {digest.value}; the "
                    f"downloaded file has {actual} ({size} bytes)",
                    field="sha256",
                )
            self._data.replace(self.target)
            self._note.unlink(missing_ok=True)

    def _stored_identity(self) -> str | None:
        try:
            return str(msgspec.json.decode(self._note.read_bytes()))
        except (OSError, msgspec.DecodeError):
            return None


class DownloadLimits:
    """Size limits of a download, and its progress callback."""

    def __init__(self, total: int | None, most: int, progress: Progress) -> None:
        self.total = total
        self.progress = progress
        self._most = most

    def check_total(self, folder: Path, done: int) -> None:
        """Checks the size, if it is known, before the first byte. Raises OutOfSpace."""
        if self.total is None:
            return
        self.check(self.total)
        free = shutil.disk_usage(folder).free
        if self.total - done > free:
            raise OutOfSpace(
                f"{folder} has {free} bytes free; {self.total - done} are needed. Free some space "
                "or set MAAS_HOME to a larger disk"
            )

    def check(self, done: int) -> None:
        if done > self._most:
            raise BodyTooLarge(
                f"this file has more than the {self._most} bytes that pull.max_bytes permits",
                limit=self._most,
            )
        if self.total is not None and done > self.total:
            raise StorageFailed(f"the server sent more than the announced {self.total} bytes")
