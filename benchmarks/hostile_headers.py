"""Time until GGUF files with malicious headers are refused.

    python -m benchmarks.hostile_headers

Reads the mutations of tests/unit/runtimes/formats/test_gguf.py as files, in the same way as a
publication: first all that break the structure of the header, none of which may be accepted, then
flipped bits, until 200 files were refused.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path

import psutil

from maas.domain.errors import InvalidInput
from maas.runtimes.formats.gguf import check_gguf
from tests.support.models.packaged import smollm2
from tests.unit.runtimes.formats.test_gguf import Layout, flipped, structural

FILES = 200


def main() -> int:
    weights = smollm2()
    size = weights.stat().st_size
    with weights.open("rb") as stream:
        layout = Layout(stream.read(4 << 20))
    layout.data = layout.data[: layout.end + 64]
    before = psutil.Process().memory_info().rss
    times: dict[str, tuple[float, float]] = {}
    accepted: list[str] = []
    harmless = 0
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "hostile.gguf"
        certain = sum(1 for _ in structural(layout, size))
        for mutation, header, length in chain(
            structural(layout, size), flipped(layout, size, 10_000)
        ):
            if len(times) == FILES:
                break
            with path.open("wb") as stream:
                stream.write(header[:length])
                stream.truncate(length)
            start, cpu_start = time.perf_counter(), time.process_time()
            try:
                check_gguf(path, "hostile.gguf")
            except InvalidInput:
                elapsed = time.perf_counter() - start
                cpu = time.process_time() - cpu_start
                times[mutation] = (elapsed * 1000, cpu * 1000)
            else:
                if len(times) + len(accepted) < certain:
                    accepted.append(mutation)
                harmless += 1
    grown = (psutil.Process().memory_info().rss - before) >> 20
    print(f"{len(times)} files refused, {harmless - len(accepted)} flipped bits were harmless; "
          f"wrongly accepted: {accepted or 'none'}; memory grew by {grown} MiB")  # fmt: skip
    for at, clock in enumerate(("elapsed", "of CPU time")):
        most, slowest = max((ms[at], mutation) for mutation, ms in times.items())
        middle = statistics.median(ms[at] for ms in times.values())
        print(f"milliseconds {clock}: median {middle:.1f}, most {most:.1f} ({slowest})")
    return 1 if accepted else 0


if __name__ == "__main__":
    sys.exit(main())
