"""A file or a folder on this machine; nothing is copied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maas.domain.errors import BodyTooLarge, InvalidInput, NotFound
from maas.domain.names import joined, shown
from maas.lifecycle.sources.archive import UNPACKED, is_archive, unpack
from maas.lifecycle.sources.base import Fetched, SourceEntry, SourceRequest, choose, named

MAX_SEEN = 10_000


def fetch(request: SourceRequest, folder: Path) -> Fetched:
    """`PATH` or `file:///PATH` of a weights file, a zip archive, or a folder with a model in it."""
    path = Path(request.source.removeprefix("file://")).expanduser()
    return from_path(path, request, folder, {"kind": "file", "uri": f"file:{path.resolve().name}"})


def from_path(path: Path, request: SourceRequest, scratch: Path, origin: dict[str, Any]) -> Fetched:
    """The model at `path`. An archive is unpacked to `scratch`."""
    if is_archive(path):
        path = unpack(path, scratch / UNPACKED, request.access.max_bytes)
    if path.is_dir():
        files = _files_of_folder(path, request)
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


def _files_of_folder(folder: Path, request: SourceRequest) -> dict[str, Path]:
    """The files of the model in a folder, by their names in the manifest."""
    inside, leading_out = _files_below(folder)
    entries = [SourceEntry(name, inside[name].stat().st_size) for name in sorted(inside)]
    try:
        chosen = choose(entries, request.file, request.source)
    except InvalidInput as error:
        if leading_out:
            raise InvalidInput(error.message + _not_followed(leading_out), field="source") from None
        raise
    return {named(entry.path): inside[entry.path] for entry in chosen}


def _files_below(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Regular files inside the folder by their relative path, and the relative paths of links that
    lead out of it, which are not followed.

    The author of a folder may not have the right to read what its links point at. A snapshot in
    the Hugging Face cache consists of links to the `blobs` of its own repository; those are
    followed.
    """
    root = folder.resolve()
    roots = [root]
    if root.parent.name == "snapshots":
        roots.append(root.parent.parent / "blobs")
    inside: dict[str, Path] = {}
    leading_out: list[str] = []
    for seen, path in enumerate(folder.rglob("*")):
        if seen > MAX_SEEN:
            raise InvalidInput(f"{folder} has more than {MAX_SEEN} entries; name a folder in it")
        if not path.is_file():
            continue
        name = str(path.relative_to(folder))
        target = path.resolve()
        if any(target.is_relative_to(allowed) for allowed in roots):
            inside[name] = path
        else:
            leading_out.append(name)
    return inside, leading_out


def _not_followed(links: list[str]) -> str:
    names = joined([shown(link, 100)[1:-1] for link in sorted(links)], 10)
    return (
        f"; links that lead out of the folder are not followed: {names}. Copy the files there, or "
        "name the folder where they lie"
    )
