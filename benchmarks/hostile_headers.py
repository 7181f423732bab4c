"""How long our reader takes to refuse GGUF files whose headers lie.

    python -m benchmarks.hostile_headers

Every structural mutation of tests/unit/runtimes/test_gguf.py as a real file, read as a publication
is: the count, what was accepted (nothing may be), milliseconds at most and in the middle, and what
the process has grown by.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

from maas.domain.errors import InvalidInput
from maas.runtimes.gguf import check_gguf
from tests.unit.runtimes.test_gguf import Layout, structural
from tests.weights import smollm2


def main() -> int:
    weights = smollm2()
    size = weights.stat().st_size
    with weights.open("rb") as stream:
        layout = Layout(stream.read(4 << 20))
    layout.data = layout.data[: layout.end + 64]
    before = psutil.Process().memory_info().rss
    taken: dict[str, float] = {}
    accepted = []
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "hostile.gguf"
        for said, start, length in structural(layout, size):
            with path.open("wb") as stream:
                stream.write(start[:length])
                stream.truncate(length)
            began = time.perf_counter()
            try:
                check_gguf(path, "hostile.gguf")
                accepted.append(said)
            except InvalidInput:
                pass
            taken[said] = (time.perf_counter() - began) * 1000
    grown = (psutil.Process().memory_info().rss - before) >> 20
    slowest = max(taken, key=taken.__getitem__)
    print(f"{len(taken)} files, accepted: {accepted or 'none'}")
    print(f"milliseconds: median {statistics.median(taken.values()):.1f}, "
          f"most {taken[slowest]:.1f} ({slowest}); grown by {grown} MiB")  # fmt: skip
    return 1 if accepted else 0


if __name__ == "__main__":
    sys.exit(main())
