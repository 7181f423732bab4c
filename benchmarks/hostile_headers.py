"""How long our reader takes to refuse GGUF files whose headers lie.

    python -m benchmarks.hostile_headers

The mutations of tests/unit/runtimes/formats/test_gguf.py as real files, read as a publication is:
all that break the header's structure, of which none may be accepted, then flipped bits up to 200
refusals.
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
    taken: dict[str, tuple[float, float]] = {}
    accepted, harmless = [], 0
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "hostile.gguf"
        certain = sum(1 for _ in structural(layout, size))
        for said, start, length in chain(structural(layout, size), flipped(layout, size, 10_000)):
            if len(taken) == FILES:
                break
            with path.open("wb") as stream:
                stream.write(start[:length])
                stream.truncate(length)
            began, worked = time.perf_counter(), time.process_time()
            try:
                check_gguf(path, "hostile.gguf")
            except InvalidInput:
                passed = time.perf_counter() - began
                taken[said] = (passed * 1000, (time.process_time() - worked) * 1000)
            else:
                if len(taken) + len(accepted) < certain:
                    accepted.append(said)
                harmless += 1
    grown = (psutil.Process().memory_info().rss - before) >> 20
    print(f"{len(taken)} files refused, {harmless - len(accepted)} bits were harmless; wrongly "
          f"accepted: {accepted or 'none'}; grown by {grown} MiB")  # fmt: skip
    for at, clock in enumerate(("passed", "of the processor")):
        slowest = max(taken, key=lambda said, at=at: taken[said][at])
        middle = statistics.median(times[at] for times in taken.values())
        most = taken[slowest][at]
        print(f"milliseconds {clock}: median {middle:.1f}, most {most:.1f} ({slowest})")
    return 1 if accepted else 0


if __name__ == "__main__":
    sys.exit(main())
