"""Description of this machine and of the runtimes whose library is installed.

Imports no library: the versions come from the metadata of installed packages.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import psutil

from maas.domain.machine import library_versions, usable_cores
from maas.runtimes.catalog import runtime_libraries


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, bytes of memory, and system."""
    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
    }


def runtimes() -> list[dict[str, Any]]:
    """Every known runtime with its installed library, as `{name, library}`.

    Without the library, `library` is None and no replica can use the runtime.
    """
    libraries = runtime_libraries()
    return [{"name": name, "library": _installed(libraries[name])} for name in libraries]


def _installed(distribution: str) -> str | None:
    if not distribution:
        return None
    version = library_versions(distribution).get(distribution)
    return version and f"{distribution} {version}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
