"""Local files that are written atomically and verified against a digest."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from maas.domain.errors import ArtifactCorrupt, InvalidInput, NotFound, OutOfSpace, StorageFailed
from maas.domain.names import checked_sha256

CHUNK_BYTES = 1 << 20

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WRITE_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def make_private_dir(path: Path) -> None:
    """Creates missing folders of `path` durably, with permissions for this user only."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_dir(folder.parent)


def make_own_dir(path: Path) -> None:
    """As `make_private_dir`, and removes permissions of others from an existing folder.

    For folders of the home, which an earlier version or a user may have created.
    """
    make_private_dir(path)
    if path.stat().st_mode & 0o077:
        path.chmod(0o700)


def sync_dir(path: Path) -> None:
    """Makes the names in a folder survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_verified(chunks: Iterable[bytes], sha256: str, target: Path, staging: Path) -> int:
    """Writes `chunks` to `target` if they have that digest; returns their size in bytes.

    `target` appears atomically and durably, or not at all. Raises InvalidInput for another
    digest, OutOfSpace, StorageFailed.
    """
    with storage_errors(f"write {target}"):
        make_private_dir(staging)
        staged = staging / f"{sha256}.{secrets.token_hex(8)}"
        try:
            with os.fdopen(os.open(staged, _WRITE_NEW, 0o600), "wb", CHUNK_BYTES) as file:
                size = copy_verified(chunks, sha256, file)
                file.flush()
                os.fsync(file.fileno())
            make_private_dir(target.parent)
            staged.rename(target)
        except BaseException:
            with contextlib.suppress(OSError):
                staged.unlink(missing_ok=True)
            raise
        sync_dir(target.parent)
    return size


def copy_verified(chunks: Iterable[bytes], sha256: str, file: IO[bytes]) -> int:
    """Writes `chunks` to `file`; returns their size. Raises InvalidInput for another digest."""
    hasher = hashlib.sha256()
    size = 0
    for chunk in chunks:
        hasher.update(chunk)
        file.write(chunk)
        size += len(chunk)
    if hasher.hexdigest() != sha256:
        raise InvalidInput(
            f"the file's SHA-256 must be {sha256}; got {hasher.hexdigest()} ({size} bytes)",
            field="sha256",
        )
    return size


def read_chunks(path: Path) -> Iterator[bytes]:
    """The file in chunks. Opens it at once: raises NotFound now, StorageFailed later.

    Does not follow a symbolic link, because no stored file is one.
    """
    with storage_errors(f"read {path}"):
        file = os.fdopen(os.open(path, _READ), "rb", buffering=0)

    def chunks() -> Iterator[bytes]:
        with file, storage_errors(f"read {path}"):
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    return chunks()


def verified(chunks: Iterable[bytes], sha256: str, where: str) -> Iterator[bytes]:
    """Yields `chunks`; raises ArtifactCorrupt after the last one if their digest differs."""
    hasher = hashlib.sha256()
    for chunk in chunks:
        hasher.update(chunk)
        yield chunk
    if hasher.hexdigest() != sha256:
        raise ArtifactCorrupt(
            f"{where} is not the file that was published: its SHA-256 is {hasher.hexdigest()}. "
            "Remove it and publish the same files again",
            sha256=sha256,
        )


def has_digest(path: Path, sha256: str) -> bool:
    """Whether the file exists and has this digest."""
    try:
        for _ in verified(read_chunks(path), sha256, str(path)):
            pass
    except (NotFound, ArtifactCorrupt):
        return False
    return True


def fetch_verified(get: Callable[[], Iterable[bytes]], sha256: str, to: Path) -> Path:
    """Path of the verified file `to/<sha256>`, which is fetched if it is missing or damaged.

    `get` returns verified chunks. It is called a second time if they were damaged in transfer. The
    file appears atomically.
    """
    target = to / checked_sha256(sha256)
    if has_digest(target, sha256):
        return target
    try:
        write_verified(get(), sha256, target, to / "staging")
    except ArtifactCorrupt:
        write_verified(get(), sha256, target, to / "staging")
    return target


def sweep(staging: Path, older_than_s: float) -> int:
    """Removes abandoned files of a staging folder; returns their number."""
    removed = 0
    with storage_errors(f"sweep {staging}"):
        if not staging.is_dir():
            return 0
        for entry in os.scandir(staging):
            with contextlib.suppress(FileNotFoundError):
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if age >= older_than_s:
                    Path(entry.path).unlink()
                    removed += 1
    return removed


@contextlib.contextmanager
def storage_errors(action: str) -> Iterator[None]:
    """Translates OSError into errors of the domain: `cannot <action>: <reason>`."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"cannot {action}: no such file") from error
    except OSError as error:
        kind = OutOfSpace if error.errno in _NO_SPACE else StorageFailed
        raise kind(f"cannot {action}: {error.strerror}") from error
