"""Runs: what one fresh process of each side showed, and what many of them say together.

In a run both sides get the same work in turns, so that what slows the machine slows both. The
runs of a candidate are spread over the whole optimization, with those of the others between
them: processes differ from start to start by more than calls do, and a machine from minute to
minute, and a reader who measures again shall land within. An interval is where 99 % of repeats of
the whole measurement fall, by Student's t distribution of the runs' logarithms. That is to
judge and to choose by one figure; a report has hundreds and shows wider ones (`repeats.py`).
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

T_995 = (
    63.657, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169,
    3.106, 3.055, 3.012, 2.977, 2.947, 2.921, 2.898, 2.878, 2.861, 2.845,
)  # fmt: skip
"""99.5 % quantiles of Student's t distribution for 1, 2, … degrees of freedom."""
OF_MEDIAN = (1.0, 1.346, 1.193, 1.434, 1.288, 1.473, 1.346, 1.494, 1.383)
"""The variance of a median of 2, 3, … 10 normal values, over that of their mean; of many: π/2."""
DISTURBED_CORES = 0.25
UNEVEN = 1.5
HOW: Mapping[str, Any] = {
    "interval": "median of runs, and where 99 % of repeats fall by Student's t",
    "repeats": 0.99,
    "order": "runs of all candidates take turns",
}


@dataclass(frozen=True)
class RunFigures:
    """Of one size of load in one run: rows of a call, or answers at once."""

    size: int
    calls: int
    """Of the candidate."""
    p50_ms: float
    p99_ms: float | None
    """None of too few calls; its ratio, too."""
    rows_per_s: float
    p50_ratio: float
    p99_ratio: float | None
    rows_per_s_ratio: float
    first_ms: float | None = None
    first_ratio: float | None = None


@dataclass(frozen=True)
class PairedRun:
    """One fresh process of each side; what it showed."""

    figures: tuple[RunFigures, ...]
    """Smallest load first."""
    candidate_bytes: int
    original_bytes: int
    """Resident memory."""
    core_s_per_1000: float
    """Of the candidate at the largest load."""
    joules_per_1000: float
    original_ms: tuple[float, float]
    """Least and most that the original took at the largest load, from turn to turn."""
    other_cores: float
    """That neither side used, nor who measures."""


def measurement_of(
    candidate: Candidate,
    original: Candidate,
    runs: Sequence[PairedRun],
    *,
    unit: str = "row",
    how: Mapping[str, Any],
) -> Measurement:
    """Each figure once per run, then their median with its interval. Raises InvalidInput if
    there are not at least two."""
    meter = EnergyMeter.find()
    resident = int(median(s.candidate_bytes for s in runs))
    files, files_before = (_bytes(c) for c in (candidate, original))
    sizes = zip(*(s.figures for s in runs), strict=True)
    return Measurement(
        candidate=candidate.name,
        speeds=tuple(_speed(figures) for figures in sizes),
        file_bytes=files,
        file_ratio=files / files_before,
        resident_bytes=resident,
        resident_ratio=resident / median(s.original_bytes for s in runs),
        core_seconds_per_1000=repeat_interval([s.core_s_per_1000 for s in runs]),
        joules_per_1000=fmean(s.joules_per_1000 for s in runs) if meter.zones else None,
        energy_note=meter.note,
        notes=tuple(_notes(runs)),
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
    def over(name: str) -> Estimate:
        return repeat_interval([getattr(f, name) for f in figures])

    def known_over(name: str) -> Estimate | None:
        return None if any(getattr(f, name) is None for f in figures) else over(name)

    return Speed(
        batch=figures[0].size,
        calls=sum(f.calls for f in figures),
        p50_ms=over("p50_ms"),
        p99_ms=known_over("p99_ms"),
        rows_per_s=over("rows_per_s"),
        p50_ratio=over("p50_ratio"),
        p99_ratio=known_over("p99_ratio"),
        rows_per_s_ratio=over("rows_per_s_ratio"),
        first_ms=known_over("first_ms"),
        first_ratio=known_over("first_ratio"),
    )


def repeat_interval(values: Sequence[float]) -> Estimate:
    """The median of positive values, and where 99 % of such medians of as many fall.

    A median, because now and then a run is unlike the others, which moves a mean out of what
    another run finds. Of logarithms that spread by s, two medians of k differ by s times the root
    of 2/k and of what a median's variance exceeds a mean's by; as s is estimated, by Student's t
    with k − 1 degrees of freedom. Those unlike the others widen s, so that who has met them is
    told.
    """
    logs = [math.log(max(v, 1e-12)) for v in values]
    count = len(logs)
    if count < 2:
        raise InvalidInput("an interval needs at least two runs", field="runs")
    quantile = T_995[min(count - 1, len(T_995)) - 1]
    share = OF_MEDIAN[count - 2] if count - 2 < len(OF_MEDIAN) else math.pi / 2
    reach = quantile * stdev(logs) * math.sqrt(2 / count * share)
    middle = median(logs)
    return Estimate(math.exp(middle), math.exp(middle - reach), math.exp(middle + reach))


def _notes(runs: Sequence[PairedRun]) -> list[str]:
    """What disturbed it: who else used the processor, and the original against itself."""
    notes = []
    others = fmean(s.other_cores for s in runs)
    if others >= DISTURBED_CORES:
        notes.append(
            f"other processes used {others:.1f} of {psutil.cpu_count()} cores while this was "
            "measured: p99 may then come out beyond its interval"
        )
    ratio = max(s.original_ms[1] for s in runs) / min(s.original_ms[0] for s in runs)
    if ratio >= UNEVEN:
        notes.append(f"the original's own rounds differed by a factor of {ratio:.1f}")
    return notes


@dataclass(frozen=True)
class CpuContention:
    """Who else used the processor since this was made."""

    start: float = field(default_factory=time.monotonic)
    busy: float = field(default_factory=lambda: _busy_s())
    own: float = field(default_factory=time.process_time)

    def cores(self, cpu_s: float) -> float:
        """`cpu_s` is what the measured processes used."""
        wall = time.monotonic() - self.start
        own = time.process_time() - self.own
        return max(0.0, (_busy_s() - self.busy - cpu_s - own) / wall)


def _busy_s() -> float:
    times = psutil.cpu_times()
    # Linux counts guests twice, and waiting for a disk is not busy.
    other = sum(getattr(times, name, 0.0) for name in ("iowait", "guest", "guest_nice"))
    return float(sum(times) - times.idle - other)


def _bytes(candidate: Candidate) -> int:
    return sum(path.stat().st_size for path in candidate.files.values())
