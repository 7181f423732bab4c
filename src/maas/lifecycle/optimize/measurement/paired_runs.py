"""Paired runs of candidate and original, and the measurement that several of them make up.

A paired run starts a new process for each side and interleaves their work, so that whatever slows
the machine slows both. The runs of all candidates are interleaved, too, over the whole
optimization: processes differ from start to start by more than calls do, and a machine changes from
minute to minute, yet a repeated measurement should fall into the interval of the first one. An
interval contains 99 % of repeats of the whole measurement, by Student's t distribution of the
logarithms of the runs' figures. That is right for judging and choosing by one figure. A report has
hundreds of figures and shows wider intervals (`report_intervals.py`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median, stdev
from typing import Any

import psutil

from maas.domain.errors import InvalidInput
from maas.lifecycle.optimize.measurement.energy import EnergyMeter
from maas.lifecycle.optimize.results import Candidate, Estimate, Measurement, Speed
from maas.lifecycle.optimize.student_t import t_quantile

MEDIAN_VARIANCE = (1.0, 1.346, 1.193, 1.434, 1.288, 1.473, 1.346, 1.494, 1.383)
"""Variance of the median of 2, 3, … 10 normal values over that of their mean; its limit is π/2."""
DISTURBED_CORES = 0.25
UNEVEN = 1.5
HOW: Mapping[str, Any] = {
    "interval": "median of the runs, with the range of 99 % of repeats by Student's t",
    "repeats": 0.99,
    "order": "the runs of all candidates are interleaved",
}


@dataclass(frozen=True)
class RunFigures:
    """Figures of one load in one run."""

    size: int
    """Rows per call, or number of concurrent answers."""
    calls: int
    """Number of the candidate's calls."""
    p50_ms: float
    p99_ms: float | None
    """None, as is its ratio, if there were too few calls."""
    rows_per_s: float
    p50_ratio: float
    p99_ratio: float | None
    rows_per_s_ratio: float
    first_ms: float | None = None
    first_ratio: float | None = None


@dataclass(frozen=True)
class PairedRun:
    """Figures of one new process of each side."""

    figures: tuple[RunFigures, ...]
    """Smallest load first."""
    candidate_bytes: int
    """Resident memory."""
    original_bytes: int
    """Resident memory."""
    core_s_per_1000: float
    """CPU seconds of the candidate at the largest load."""
    joules_per_1000: float
    original_ms: tuple[float, float]
    """Shortest and longest median latency of the original over its turns at the largest load."""
    other_cores: float
    """Cores used by processes that take no part in the measurement."""


def measurement_of(
    candidate: Candidate,
    original: Candidate,
    runs: Sequence[PairedRun],
    *,
    unit: str = "row",
    how: Mapping[str, Any],
) -> Measurement:
    """Median and interval of each figure over all runs.

    Raises InvalidInput if there are fewer than two runs.
    """
    meter = EnergyMeter.find()
    resident = int(median(run.candidate_bytes for run in runs))
    file_bytes = _file_bytes(candidate)
    figures_by_size = zip(*(run.figures for run in runs), strict=True)
    return Measurement(
        candidate=candidate.name,
        speeds=tuple(_speed(figures) for figures in figures_by_size),
        file_bytes=file_bytes,
        file_ratio=file_bytes / _file_bytes(original),
        resident_bytes=resident,
        resident_ratio=resident / median(run.original_bytes for run in runs),
        core_seconds_per_1000=repeat_interval([run.core_s_per_1000 for run in runs]),
        joules_per_1000=fmean(run.joules_per_1000 for run in runs) if meter.zones else None,
        energy_note=meter.note,
        notes=tuple(_disturbances(runs)),
        how={
            "runs": len(runs),
            "threads": candidate.threads,
            "original_threads": original.threads,
            **HOW,
            **how,
        },
        unit=unit,
    )


def _speed(figures: Sequence[RunFigures]) -> Speed:
    """Intervals of one load, from the figures of every run."""

    def interval(name: str) -> Estimate:
        return repeat_interval([getattr(f, name) for f in figures])

    def optional_interval(name: str) -> Estimate | None:
        if any(getattr(f, name) is None for f in figures):
            return None
        return interval(name)

    return Speed(
        batch=figures[0].size,
        calls=sum(f.calls for f in figures),
        p50_ms=interval("p50_ms"),
        p99_ms=optional_interval("p99_ms"),
        rows_per_s=interval("rows_per_s"),
        p50_ratio=interval("p50_ratio"),
        p99_ratio=optional_interval("p99_ratio"),
        rows_per_s_ratio=interval("rows_per_s_ratio"),
        first_ms=optional_interval("first_ms"),
        first_ratio=optional_interval("first_ratio"),
    )


def repeat_interval(values: Sequence[float]) -> Estimate:
    """Median of positive values, with the range of 99 % of such medians of as many values.

    A median, because an occasional run is unlike the others and would move a mean out of the range
    of a repeat. If logarithms have the standard deviation s, two medians of k values differ by s
    times the square root of 2/k times `MEDIAN_VARIANCE`. As s is estimated, Student's t with k − 1
    degrees of freedom applies. Runs that are unlike the others increase s, so that the interval
    shows them.

    Raises InvalidInput if there are fewer than two values.
    """
    logs = [math.log(max(v, 1e-12)) for v in values]
    count = len(logs)
    if count < 2:
        raise InvalidInput("an interval needs at least two runs", field="runs")
    variance = MEDIAN_VARIANCE[count - 2] if count - 2 < len(MEDIAN_VARIANCE) else math.pi / 2
    reach = t_quantile(0.995, count - 1) * stdev(logs) * math.sqrt(2 / count * variance)
    middle = median(logs)
    return Estimate(math.exp(middle), math.exp(middle - reach), math.exp(middle + reach))


def _disturbances(runs: Sequence[PairedRun]) -> list[str]:
    """Notes on other load of the machine, and on uneven figures of the original itself."""
    notes = []
    other_cores = fmean(run.other_cores for run in runs)
    if other_cores >= DISTURBED_CORES:
        notes.append(
            f"other processes used {other_cores:.1f} of {psutil.cpu_count()} cores during the "
            "measurement: p99 of a repeat may be outside its interval"
        )
    ratio = max(run.original_ms[1] for run in runs) / min(run.original_ms[0] for run in runs)
    if ratio >= UNEVEN:
        notes.append(f"the latency of the original itself varied by a factor of {ratio:.1f}")
    return notes


@dataclass(frozen=True)
class CpuContention:
    """CPU time used by other processes since this object was created."""

    start: float = field(default_factory=time.monotonic)
    busy: float = field(default_factory=lambda: _busy_s())
    own: float = field(default_factory=time.process_time)

    def cores(self, cpu_s: float) -> float:
        """Average number of cores; `cpu_s` is the CPU time of the measured processes."""
        wall = time.monotonic() - self.start
        own = time.process_time() - self.own
        return max(0.0, (_busy_s() - self.busy - cpu_s - own) / wall)


def _busy_s() -> float:
    times = psutil.cpu_times()
    # Linux counts guests twice, and waiting for a disk is not busy.
    other = sum(getattr(times, name, 0.0) for name in ("iowait", "guest", "guest_nice"))
    return float(sum(times) - times.idle - other)


def _file_bytes(candidate: Candidate) -> int:
    return sum(path.stat().st_size for path in candidate.files.values())
