"""Who used what, and how it went: usage per key for the ledger, and metrics per deployment.

Both are counters in memory-mapped files, so counting costs no system call, a crash loses nothing,
and any gateway worker can show the metrics of all.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from pathlib import Path

from maas.domain.errors import MaasError
from maas.domain.keys import Key
from maas.serving.counter_file import CounterFile, read_counters
from maas.serving.messages import Answers
from maas.serving.routing import LiveRoute
from maas.serving.usage_file import COMPUTE_US, ERRORS, REQUESTS, ROWS, UsageFile

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the latency histogram's buckets, seconds; a last bucket holds the rest."""
COUNT, LATENCY_US, QUEUE_US, MODEL_US, BATCHES, BATCH_ROWS, FIRST_BUCKET = range(7)
"""COUNT is of failures; answers are counted by their buckets."""
WIDTH = FIRST_BUCKET + len(BOUNDS) + 1


class Meter:
    def __init__(self, usage_dir: Path, run_dir: Path, source: str) -> None:
        """`source` names this incarnation of this gateway and is never used again."""
        self._usage = UsageFile(usage_dir, source)
        for old in run_dir.glob("*.metrics"):
            _drop_if_dead(old)
        self._metrics = CounterFile(run_dir / f"{source}.metrics", source, WIDTH)
        self._run_dir = run_dir

    def answered(
        self,
        key: Key,
        operation: str,
        route: LiveRoute,
        rows: int,
        received: float,
        answers: Answers,
    ) -> None:
        """Count one of `answers`, just before it leaves; what concerns its batch, once."""
        compute_us = answers.compute_us * rows // (answers.batch_rows or 1)
        usage = self._usage.slot(key.id, route.deployment, operation)
        usage[REQUESTS] += 1
        usage[ROWS] += rows
        usage[COMPUTE_US] += compute_us
        slot = route.ok_counters
        if slot is None:
            slot = route.ok_counters = self._slot(route, "ok")
        if not answers.counted:
            answers.counted = True
            slot[BATCHES] += 1
            slot[BATCH_ROWS] += answers.total_rows
            slot[QUEUE_US] += sum(answers.queue_us)
            slot[MODEL_US] += answers.compute_us
        latency = time.monotonic() - received
        slot[LATENCY_US] += int(latency * 1e6)
        slot[FIRST_BUCKET + bisect_left(BOUNDS, latency)] += 1

    def used(self, key: Key, deployment: str, operation: str, rows: int) -> None:
        """Count an answer that did not come from a batch of this gateway."""
        usage = self._usage.slot(key.id, deployment, operation)
        usage[REQUESTS] += 1
        usage[ROWS] += rows

    def failed(
        self, key: Key | None, operation: str, deployment: str, route: LiveRoute | None,
        error: MaasError,
    ) -> None:  # fmt: skip
        """Count a refusal or failure; only for deployments that exist."""
        if key is not None:
            self._usage.slot(key.id, deployment, operation)[ERRORS] += 1
        if route is not None:
            self._slot(route, error.code)[COUNT] += 1

    def _slot(self, route: LiveRoute, outcome: str) -> memoryview:
        label = "\t".join((route.deployment, str(route.version), route.variant, outcome))
        return self._metrics.slot(label)

    def totals(self) -> dict[str, tuple[int, ...]]:
        """Metrics of all gateway workers, added up by label."""
        out: dict[str, tuple[int, ...]] = {}
        for path in self._run_dir.glob("*.metrics"):
            try:
                _, totals, _ = read_counters(path)
            except (OSError, ValueError):
                continue
            for label, counters in totals.items():
                known = out.get(label)
                if known is not None:
                    counters = tuple(map(int.__add__, known, counters))
                out[label] = counters
        return out

    def close(self) -> None:
        self._usage.close()
        self._metrics.close()


def _drop_if_dead(path: Path) -> None:
    """Metrics are per start of a gateway, as Prometheus expects; usage is not, and is kept."""
    try:
        _, _, alive = read_counters(path)
    except OSError:
        return
    except ValueError:
        alive = False
    if not alive:
        path.unlink(missing_ok=True)
