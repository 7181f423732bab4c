"""The machine this process runs on: usable cores and installed libraries."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version


def usable_cores() -> int:
    """Number of logical cores that this process may run on, at least 1.

    Honors CPU affinity (`taskset`, a container's cpuset) where the system has it. A limit on CPU
    time, such as a container's quota, does not count.
    """
    return len(usable_core_ids()) or os.cpu_count() or 1


def usable_core_ids() -> list[int]:
    """Those cores by number, in ascending order; [] where a process cannot be bound to cores."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    return sorted(os.sched_getaffinity(0))


def library_versions(*distributions: str) -> dict[str, str]:
    """Versions of those `distributions` that are installed, by name."""
    versions: dict[str, str] = {}
    for distribution in distributions:
        try:
            versions[distribution] = version(distribution)
        except PackageNotFoundError:
            continue
    return versions
