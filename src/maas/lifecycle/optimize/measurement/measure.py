"""Measure: what a candidate that answers rows costs, in turns with the original.

In the rounds of a run both get the same rows and the same time, in the order original,
candidate, candidate, original. Ratios are of turns beside each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from maas.domain.errors import InvalidInput
from maas.domain.signature import Signature
from maas.lifecycle.optimize.measurement.candidate_process import CandidateProcess
from maas.lifecycle.optimize.measurement.energy import EnergyMeter
from maas.lifecycle.optimize.measurement.paired_runs import CpuContention, PairedRun, RunFigures
from maas.lifecycle.optimize.results import Candidate, EvaluationRows

RESIDENT = "resident set of a fresh process after its first calls, median"


@dataclass(frozen=True)
class MeasurementPlan:
    """How long a run measures."""

    batches: tuple[int, ...] = (1, 8, 32)
    rounds: int = 3
    seconds: float = 0.05
    """Of one side's turn with one batch size."""
    least_calls: int = 3
    """Of a turn, however long they take."""
    meter: EnergyMeter = field(default_factory=EnergyMeter.find)


@dataclass(frozen=True)
class _Turn:
    """Calls of one side, one after the other."""

    milliseconds: tuple[float, ...]
    cpu_s: float
    joules: float

    @property
    def calls_per_ms(self) -> float:
        return len(self.milliseconds) / sum(self.milliseconds)


_Turns = dict[int, list[_Turn]]
"""By batch size."""


def sit(
    candidate: Candidate,
    original: Candidate,
    rows: EvaluationRows,
    signature: Signature,
    plan: MeasurementPlan | None = None,
) -> PairedRun:
    """Latency, throughput, memory and work of the candidate beside the original, once.

    Takes about rounds × batches × 2 × seconds, and two starts. Raises InvalidInput or
    InferenceFailed with the reason if one of them does not load or answer.
    """
    plan = plan or MeasurementPlan()
    batches = tuple(b for b in plan.batches if b <= (signature.max_rows or b))
    if not batches:
        raise InvalidInput("a batch size of 1 must be among those measured", field="batches")
    watch = CpuContention()
    mine: _Turns = defaultdict(list)
    other: _Turns = defaultdict(list)
    with (
        CandidateProcess(original, signature, rows) as first,
        CandidateProcess(candidate, signature, rows) as second,
    ):
        for process in (first, second):
            for batch in batches:
                process.turn(batch, plan.seconds, plan.least_calls)
        resident = [int(process.state()["resident"]) for process in (first, second)]
        for number in range(plan.rounds):
            for batch in batches:
                order = [(first, other), (second, mine)]
                for process, turns in order if number % 2 == 0 else order[::-1]:
                    turns[batch].append(_turn(process, batch, plan))
        # From their start on, because what they did while loading was not the machine's others.
        cpu_s = sum(process.state()["cpu"] for process in (first, second)) / 1e9
    largest = batches[-1]
    answered = sum(len(t.milliseconds) for t in mine[largest]) * largest / 1000
    took = [median(t.milliseconds) for t in other[largest]]
    return PairedRun(
        figures=tuple(_figures(batch, mine[batch], other[batch]) for batch in batches),
        original_bytes=resident[0],
        candidate_bytes=resident[1],
        core_s_per_1000=sum(t.cpu_s for t in mine[largest]) / answered,
        joules_per_1000=sum(t.joules for t in mine[largest]) / answered,
        original_ms=(min(took), max(took)),
        other_cores=watch.cores(cpu_s),
    )


def _turn(process: CandidateProcess, batch: int, plan: MeasurementPlan) -> _Turn:
    started = plan.meter.read()
    got = process.turn(batch, plan.seconds, plan.least_calls)
    joules = plan.meter.joules_since(started)
    return _Turn(tuple(d / 1e6 for d in got["durations"]), got["cpu"] / 1e9, joules)


def _figures(batch: int, mine: Sequence[_Turn], other: Sequence[_Turn]) -> RunFigures:
    beside = list(zip(mine, other, strict=True))
    p99 = _quantile(mine, 99)
    return RunFigures(
        size=batch,
        calls=sum(len(t.milliseconds) for t in mine),
        p50_ms=_quantile(mine, 50),
        p99_ms=p99,
        rows_per_s=median(t.calls_per_ms for t in mine) * 1000 * batch,
        p50_ratio=median(median(a.milliseconds) / median(b.milliseconds) for a, b in beside),
        p99_ratio=p99 / _quantile(other, 99),
        rows_per_s_ratio=median(a.calls_per_ms / b.calls_per_ms for a, b in beside),
    )


def _quantile(turns: Sequence[_Turn], percent: float) -> float:
    return float(np.percentile(np.concatenate([t.milliseconds for t in turns]), percent))
