"""Measure: what a candidate costs, in turns with the original on the same machine.

A sitting is one fresh process of each; in its rounds both get the same rows and the same time, in
the order original, candidate, candidate, original. Ratios are of turns beside each other, so that
what slows the machine slows both. An interval is where 99 % of repeats of the whole measurement
fall, by Student's t distribution of the sittings' logarithms: processes differ from start to start
by more than calls do, and a reader who measures again shall land within. Not 95 %, because a report
has dozens of figures, of which one or two would then fall outside.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, median, stdev

import numpy as np
import psutil

from maas.domain.errors import InvalidInput
from maas.domain.signature import Signature
from maas.lifecycle.optimize.candidate_process import CandidateProcess
from maas.lifecycle.optimize.energy import Meter
from maas.lifecycle.optimize.words import (
    Candidate,
    Estimate,
    EvaluationRows,
    Measurement,
    Speed,
)

T_995 = (
    63.657, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169,
    3.106, 3.055, 3.012, 2.977, 2.947, 2.921, 2.898, 2.878, 2.861, 2.845,
)  # fmt: skip
"""99.5 % quantiles of Student's t distribution for 1, 2, … degrees of freedom."""
DISTURBED_CORES = 0.25
UNEVEN = 1.5


@dataclass(frozen=True)
class Plan:
    """How long is measured."""

    batches: tuple[int, ...] = (1, 8, 32)
    sittings: int = 8
    """Fresh processes of each side."""
    rounds: int = 3
    """Of a sitting."""
    seconds: float = 0.05
    """Of one side's turn with one batch size."""
    least_calls: int = 3
    """Of a turn, however long they take."""
    meter: Meter = field(default_factory=Meter.find)

    def __post_init__(self) -> None:
        if not 2 <= self.sittings <= 100 or not 1 <= self.rounds <= 1000:
            raise InvalidInput(
                "sittings must be from 2 to 100 and rounds from 1 to 1000; "
                f"got {self.sittings} and {self.rounds}",
                field="sittings",
            )


@dataclass(frozen=True)
class Turn:
    """Calls of one side, one after the other."""

    milliseconds: tuple[float, ...]
    cpu_s: float
    joules: float

    @property
    def calls_per_ms(self) -> float:
        return len(self.milliseconds) / sum(self.milliseconds)


@dataclass
class Sitting:
    """Turns by batch size, side by side; and what the processes needed."""

    original: dict[int, list[Turn]] = field(default_factory=lambda: defaultdict(list))
    candidate: dict[int, list[Turn]] = field(default_factory=lambda: defaultdict(list))
    original_bytes: int = 0
    candidate_bytes: int = 0
    cpu_s: float = 0.0
    """Of both processes together, as long as they were used."""


def measure(
    candidate: Candidate,
    original: Candidate,
    rows: EvaluationRows,
    signature: Signature,
    plan: Plan | None = None,
) -> Measurement:
    """Latency, throughput, memory and work of the candidate beside the original.

    Takes about sittings × rounds × batches × 2 × seconds, and two starts per sitting. Raises
    InvalidInput or InferenceFailed with the reason if one of them does not load or answer.
    """
    plan = plan or Plan()
    batches = tuple(b for b in plan.batches if b <= (signature.max_rows or b))
    if not batches:
        raise InvalidInput("a batch size of 1 must be among those measured", field="batches")
    watch = OtherWork()
    sittings = []
    for _ in range(plan.sittings):
        with (
            CandidateProcess(original, signature, rows) as first,
            CandidateProcess(candidate, signature, rows) as second,
        ):
            sittings.append(_sit(first, second, batches, plan))
    notes = watch.notes(sum(s.cpu_s for s in sittings))
    return _measurement(candidate, original, sittings, batches, plan, notes)


def _sit(
    first: CandidateProcess, second: CandidateProcess, batches: Sequence[int], plan: Plan
) -> Sitting:
    sitting = Sitting()
    for process in (first, second):
        for batch in batches:
            process.turn(batch, plan.seconds, plan.least_calls)
    before = [process.state() for process in (first, second)]
    sitting.original_bytes, sitting.candidate_bytes = (int(s["resident"]) for s in before)
    for number in range(plan.rounds):
        for batch in batches:
            order = [(first, sitting.original), (second, sitting.candidate)]
            for process, turns in order if number % 2 == 0 else order[::-1]:
                turns[batch].append(_turn(process, batch, plan))
    # From their start on, because what they did while loading was not the machine's others.
    sitting.cpu_s = sum(p.state()["cpu"] for p in (first, second)) / 1e9
    return sitting


def _turn(process: CandidateProcess, batch: int, plan: Plan) -> Turn:
    started = plan.meter.read()
    got = process.turn(batch, plan.seconds, plan.least_calls)
    joules = plan.meter.joules_since(started)
    return Turn(tuple(d / 1e6 for d in got["durations"]), got["cpu"] / 1e9, joules)


def _measurement(
    candidate: Candidate,
    original: Candidate,
    sittings: list[Sitting],
    batches: Sequence[int],
    plan: Plan,
    notes: list[str],
) -> Measurement:
    largest = batches[-1]
    files, files_before = (_bytes(c) for c in (candidate, original))
    resident = int(median(s.candidate_bytes for s in sittings))
    work = [
        sum(t.cpu_s for t in s.candidate[largest])
        / sum(len(t.milliseconds) for t in s.candidate[largest])
        for s in sittings
    ]
    every = [t for s in sittings for t in s.candidate[largest]]
    calls = sum(len(t.milliseconds) for t in every)
    joules = sum(t.joules for t in every) / calls / largest * 1000 if plan.meter.zones else None
    return Measurement(
        candidate=candidate.name,
        speeds=tuple(_speed(batch, sittings) for batch in batches),
        file_bytes=files,
        file_ratio=files / files_before,
        resident_bytes=resident,
        resident_ratio=resident / median(s.original_bytes for s in sittings),
        core_seconds_per_1000=repeat_interval([w / largest * 1000 for w in work]),
        joules_per_1000=joules,
        joules_why=plan.meter.why,
        notes=(*notes, *_uneven(sittings, largest)),
        how={
            "sittings": plan.sittings,
            "rounds": plan.rounds,
            "seconds_per_turn": plan.seconds,
            "threads": candidate.threads,
            "original_threads": original.threads,
            "interval": "where 99 % of repeats fall, Student's t over sittings",
            "resident": "resident set of a fresh process after its first calls, median",
        },
    )


def _speed(batch: int, sittings: Sequence[Sitting]) -> Speed:
    """Each figure once per sitting, then their mean with its interval."""
    sides = [(s.candidate[batch], s.original[batch]) for s in sittings]
    p50 = [[_quantile(turns, 50) for turns in both] for both in sides]
    p99 = [[_quantile(turns, 99) for turns in both] for both in sides]
    rate = [median(t.calls_per_ms for t in mine) * 1000 * batch for mine, _ in sides]
    ratios = [
        (
            median(
                median(a.milliseconds) / median(b.milliseconds)
                for a, b in zip(mine, other, strict=True)
            ),
            median(a.calls_per_ms / b.calls_per_ms for a, b in zip(mine, other, strict=True)),
        )
        for mine, other in sides
    ]
    return Speed(
        batch=batch,
        calls=sum(len(t.milliseconds) for mine, _ in sides for t in mine),
        p50_ms=repeat_interval([mine for mine, _ in p50]),
        p99_ms=repeat_interval([mine for mine, _ in p99]),
        rows_per_s=repeat_interval(rate),
        p50_ratio=repeat_interval([latency for latency, _ in ratios]),
        p99_ratio=repeat_interval([mine / other for mine, other in p99]),
        rows_per_s_ratio=repeat_interval([throughput for _, throughput in ratios]),
    )


def repeat_interval(values: Sequence[float]) -> Estimate:
    """The geometric mean of positive values, and where 99 % of such means of as many fall.

    The difference of two means of k values has twice the variance of one; with the variance
    estimated from the k values it follows Student's t with k − 1 degrees of freedom.
    """
    logs = [math.log(max(v, 1e-12)) for v in values]
    count = len(logs)
    if count < 2:
        raise InvalidInput("an interval needs at least two sittings", field="sittings")
    quantile = T_995[min(count - 1, len(T_995)) - 1]
    reach = quantile * stdev(logs) * math.sqrt(2 / count)
    middle = fmean(logs)
    return Estimate(math.exp(middle), math.exp(middle - reach), math.exp(middle + reach))


def _quantile(turns: Sequence[Turn], percent: float) -> float:
    return float(np.percentile(np.concatenate([t.milliseconds for t in turns]), percent))


def _bytes(candidate: Candidate) -> int:
    return sum(path.stat().st_size for path in candidate.files.values())


def _uneven(sittings: Sequence[Sitting], batch: int) -> list[str]:
    """The original against itself: what it took in one round and in another."""
    took = [median(t.milliseconds) for s in sittings for t in s.original[batch]]
    ratio = max(took) / min(took)
    if ratio < UNEVEN:
        return []
    return [f"the original's own rounds differed by a factor of {ratio:.1f}"]


class OtherWork:
    """Who else used the processor."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._busy, self._own = _busy_s(), _own_s()

    def notes(self, cpu_s: float) -> list[str]:
        """`cpu_s` is what the measured processes used."""
        wall = time.monotonic() - self._start
        others = (_busy_s() - self._busy - cpu_s - (_own_s() - self._own)) / wall
        if others < DISTURBED_CORES:
            return []
        return [
            f"other processes used {others:.1f} of {psutil.cpu_count()} cores while this was "
            "measured: p99 may then come out beyond its interval"
        ]


def _busy_s() -> float:
    times = psutil.cpu_times()
    # Linux counts guests twice, and waiting for a disk is not busy.
    other = sum(getattr(times, name, 0.0) for name in ("iowait", "guest", "guest_nice"))
    return float(sum(times) - times.idle - other)


def _own_s() -> float:
    return time.process_time()
