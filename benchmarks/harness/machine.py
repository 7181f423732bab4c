"""Description of the machine, and its other load during a measurement."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class CoreTimes:
    """CPU time of one core since boot, in seconds."""

    busy: float
    steal: float
    at: float


def core_times(core: int) -> CoreTimes:
    ticks = os.sysconf("SC_CLK_TCK")
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            user, nice, system, _idle, _wait, irq, soft, steal = map(int, line.split()[1:9])
            busy = user + nice + system + irq + soft
            return CoreTimes(busy / ticks, steal / ticks, time.monotonic())
    raise ValueError(f"this machine has no core {core}")


def calibration_ms(core: int) -> float:
    """Duration of a fixed computation on `core`, which shows a slower clock or other load."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        start = time.perf_counter()
        total = 0
        for i in range(400_000):
            total += i * i
        return (time.perf_counter() - start) * 1000
    finally:
        os.sched_setaffinity(0, before)


def description() -> dict[str, Any]:
    """Processor, cores, memory, kernel and Python version."""
    processor = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
