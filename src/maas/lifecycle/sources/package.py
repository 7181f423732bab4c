"""Weights in an installed Python package, which is located but never imported."""

from __future__ import annotations

import re
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from maas.domain.errors import InvalidInput, NotFound
from maas.domain.names import shown
from maas.lifecycle.sources.base import Fetched, SourceRequest
from maas.lifecycle.sources.local import from_path

_PACKAGE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


def fetch(request: SourceRequest, folder: Path) -> Fetched:
    """Fetches `package://PACKAGE/FILE`: PACKAGE is the import name; FILE is a weights file, a zip
    archive or a folder in it."""
    path, origin = locate(request.source)
    fetched = from_path(path, request, folder, origin)
    package = request.source.removeprefix("package://").partition("/")[0]
    return Fetched(fetched.files, fetched.origin, _license(_distribution(package)))


def locate(source: str) -> tuple[Path, dict[str, Any]]:
    """Path of FILE, and its origin as JSON. Raises NotFound, InvalidInput."""
    package, _, inside = source.removeprefix("package://").partition("/")
    root = _root(package)
    path = (root / inside).resolve()
    if not path.is_relative_to(root):
        raise InvalidInput(f"{shown(inside)} leads out of the package {package}", field="source")
    if not inside or not path.exists():
        raise NotFound(f"the package {package} has no {shown(inside)}; it has {_contents(root)}")
    origin: dict[str, Any] = {"kind": "package", "uri": f"package://{package}/{inside}"}
    distribution = _distribution(package)
    if distribution is not None:
        origin |= {"distribution": distribution.name, "version": distribution.version}
    return path, origin


def _root(package: str) -> Path:
    """The folder of a top-level package; find_spec would import the parents of a dotted name."""
    if not _PACKAGE.fullmatch(package):
        raise InvalidInput(
            f"package://PACKAGE/FILE needs the name of a top-level package; got {shown(package)}",
            field="source",
        )
    try:
        spec = find_spec(package)
    except ValueError:  # a module created at run time
        spec = None
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        raise NotFound(f"the package {package} is not installed in OpenMaaS's environment")
    return Path(places[0]).resolve()


def _distribution(package: str) -> metadata.Distribution | None:
    """The distribution that pip installed the package from."""
    names = metadata.packages_distributions().get(package, [])
    return metadata.distribution(names[0]) if names else None


def _license(distribution: metadata.Distribution | None) -> str:
    """The license in the package's metadata, which usually covers its weights, too."""
    if distribution is None:
        return ""
    fields = distribution.metadata.json
    for key in ("license_expression", "license"):
        license_ = " ".join(str(fields.get(key) or "").split())
        if license_ and license_.upper() != "UNKNOWN" and len(license_) <= 100:
            return license_
    prefix = "License :: OSI Approved :: "
    return next(
        (c.removeprefix(prefix) for c in fields.get("classifier", ()) if c.startswith(prefix)), ""
    )


def _contents(root: Path, most: int = 20) -> str:
    names = sorted(
        f"{p.name}/" if p.is_dir() else p.name
        for p in root.iterdir()
        if p.suffix not in (".py", ".pyc", ".so") and p.name != "__pycache__"
    )
    return ", ".join(names[:most]) or "no files but code"
