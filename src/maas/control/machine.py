"""What this server runs on, and which runtimes have their library here.

Nothing is imported for it: a library's presence is read from what its installer left.
"""

from __future__ import annotations

import os
import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, bytes of memory, and system."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
    }


def cores() -> int:
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def runtimes() -> list[dict[str, Any]]:
    """Every runtime that this version knows, with the library that it would use here; without
    one, `library` is null and no replica can load it."""
    # The catalog brings NumPy, which a start of control need not wait for.
    catalog = import_module("maas.runtimes.catalog")
    return [
        {"name": name, "library": _installed(catalog.LIBRARIES.get(name))}
        for name in catalog.RUNTIMES
    ]


def _installed(distribution: str | None) -> str | None:
    if distribution is None:
        return None
    try:
        return f"{distribution} {version(distribution)}"
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
