"""A file or a folder on this machine; nothing is copied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maas.domain.errors import BodyTooLarge, InvalidInput, NotFound
from maas.domain.names import shown
from maas.lifecycle.sources.archive import UNPACKED, is_archive, unpack
from maas.lifecycle.sources.base import Entry, Fetched, Request, choose, named

MAX_SEEN = 10_000


def fetch(request: Request, folder: Path) -> Fetched:
    """`PATH` or `file:///PATH` of a weights file, a zip archive, or a folder with a model in it."""
    path = Path(request.source.removeprefix("file://")).expanduser()
    return from_path(path, request, folder, {"kind": "file", "uri": f"file:{path.resolve().name}"})


def from_path(path: Path, request: Request, scratch: Path, origin: dict[str, Any]) -> Fetched:
    """The model at `path`. An archive is unpacked into `scratch`."""
    if is_archive(path):
        path = unpack(path, scratch / UNPACKED, request.access.max_bytes)
    if path.is_dir():
        found = {str(p.relative_to(path)): p for p in _files_below(path)}
        entries = [Entry(name, p.stat().st_size) for name, p in sorted(found.items())]
        chosen = choose(entries, request.file, request.source)
        files = {named(e.path): found[e.path] for e in chosen}
    elif path.is_file():
        files = {named(path.name): path}
    else:
        raise NotFound(f"there is no file or folder {shown(request.source, 200)}")
    for name, file in files.items():
        if file.stat().st_size > request.access.max_bytes:
            raise BodyTooLarge(
                f"{name} has more than the {request.access.max_bytes} bytes that pull.max_bytes "
                "permits",
                limit=request.access.max_bytes,
            )
    return Fetched(files, origin)


def _files_below(folder: Path) -> list[Path]:
    """Regular files inside; a link that leads out of the folder is not followed."""
    root = folder.resolve()
    found = []
    for seen, path in enumerate(folder.rglob("*")):
        if seen > MAX_SEEN:
            raise InvalidInput(f"{folder} has more than {MAX_SEEN} entries; name a folder in it")
        if path.is_file() and path.resolve().is_relative_to(root):
            found.append(path)
    return found
