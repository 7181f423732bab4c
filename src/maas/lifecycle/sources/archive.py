"""Zip archives, unpacked so that no entry leaves the folder or fills the disk."""

from __future__ import annotations

import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath

from maas.domain.errors import BodyTooLarge, InvalidInput, OutOfSpace
from maas.domain.names import shown
from maas.lifecycle.sources.workspace import CHUNK_BYTES
from maas.storage.files import storage_errors

MAX_ENTRIES = 1000
MAX_DEPTH = 4
MAX_EXPANSION = 100
"""Limit as a multiple of the archive's size. Weights compress to a half at best, zeros to a
thousandth."""
FREE_BYTES = 16 << 20
"""Bytes to which any archive may unpack, however small it is."""
UNPACKED = "unpacked"
"""Name of the folder for unpacked files in a pull's workspace."""


def is_archive(path: Path) -> bool:
    return path.suffix.lower() == ".zip" and path.is_file()


def unpack(archive: Path, target: Path, max_bytes: int) -> Path:
    """Unpacks at most `max_bytes` to `target`, and returns it.

    Raises InvalidInput for a path out of the folder, a link, an encrypted entry or an invalid
    archive; then nothing is left.
    """
    shutil.rmtree(target, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = opened.infolist()
            most = max(FREE_BYTES, MAX_EXPANSION * archive.stat().st_size)
            _check(entries, archive.name, max_bytes, most)
            left = max_bytes
            for entry in entries:
                if not entry.is_dir():
                    left -= _write(opened, entry, target, left)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError) as error:
        shutil.rmtree(target, ignore_errors=True)
        raise InvalidInput(f"{archive.name} is not a usable zip archive: {error}") from None
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return target


def _check(entries: list[zipfile.ZipInfo], name: str, max_bytes: int, most: int) -> None:
    if len(entries) > MAX_ENTRIES:
        raise InvalidInput(f"{name} must have at most {MAX_ENTRIES} entries; got {len(entries)}")
    for entry in entries:
        path = PurePosixPath(entry.filename)
        outside = path.is_absolute() or ".." in path.parts or "\\" in entry.filename
        if outside or len(path.parts) > MAX_DEPTH or not path.parts:
            raise InvalidInput(f"{name} has an entry {shown(entry.filename)}, which leads outside")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise InvalidInput(f"{name} has an entry {shown(entry.filename)} that is not a file")
    total = sum(e.file_size for e in entries)
    if total > max_bytes:
        raise BodyTooLarge(
            f"{name} would have {total} bytes unpacked; pull.max_bytes permits {max_bytes}",
            limit=max_bytes,
        )
    if total > most:
        raise InvalidInput(
            f"{name} would have {total} bytes unpacked, more than {MAX_EXPANSION} times its size; "
            "weights do not compress that much"
        )


def _write(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, left: int) -> int:
    """Writes an entry and returns its bytes, which are counted because headers can lie."""
    path = target / entry.filename
    written = 0
    with storage_errors(f"unpack {entry.filename}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(path.parent).free < entry.file_size:
            raise OutOfSpace(f"no room for the {entry.file_size} bytes of {entry.filename}")
        with opened.open(entry) as source, path.open("xb") as file:
            while chunk := source.read(CHUNK_BYTES):
                written += len(chunk)
                if written > left:
                    raise BodyTooLarge(
                        "the archive unpacks to more bytes than it declares", limit=left
                    )
                file.write(chunk)
    return written
