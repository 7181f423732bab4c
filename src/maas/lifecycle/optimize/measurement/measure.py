"""Measurement of a candidate that answers rows, interleaved with the original.

In each round of a paired run both sides get the same rows and the same time, in the order original,
candidate, candidate, original. Ratios compare adjacent turns.
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

RESIDENT = "resident set of a new process after its first calls, median"


@dataclass(frozen=True)
class MeasurementPlan:
    """Batch sizes and duration of a paired run."""

    batches: tuple[int, ...] = (1, 8, 32)
    rounds: int = 3
    seconds: float = 0.05
    """Duration of a turn: one side's calls at one batch size."""
    least_calls: int = 3
    """Fewest calls of a turn, however long they take."""
    meter: EnergyMeter = field(default_factory=EnergyMeter.find)

    def batches_for(self, signature: Signature) -> tuple[int, ...]:
        """The batch sizes that the model accepts."""
        if not signature.max_rows:
            return self.batches
        return tuple(size for size in self.batches if size <= signature.max_rows)


@dataclass(frozen=True)
class _Turn:
    """Consecutive calls of one side."""

    milliseconds: tuple[float, ...]
    cpu_s: float
    joules: float

    @property
    def median_ms(self) -> float:
        return median(self.milliseconds)

    @property
    def calls_per_ms(self) -> float:
        return len(self.milliseconds) / sum(self.milliseconds)


_Turns = dict[int, list[_Turn]]
"""Turns of one side, by batch size."""


def measure_pair(
    candidate: Candidate,
    original: Candidate,
    rows: EvaluationRows,
    signature: Signature,
    plan: MeasurementPlan | None = None,
) -> PairedRun:
    """Latency, throughput, memory and CPU time of the candidate against the original, in one run.

    Takes about rounds × batches × 2 × seconds, and the start of two processes. Raises InvalidInput
    or InferenceFailed with the reason if either side does not load or does not answer.
    """
    plan = plan or MeasurementPlan()
    batches = plan.batches_for(signature)
    if not batches:
        raise InvalidInput("batches must include a batch size of 1", field="batches")
    contention = CpuContention()
    candidate_turns: _Turns = defaultdict(list)
    original_turns: _Turns = defaultdict(list)
    with (
        CandidateProcess(original, signature, rows) as first,
        CandidateProcess(candidate, signature, rows) as second,
    ):
        for process in (first, second):
            for batch in batches:
                process.turn(batch, plan.seconds, plan.least_calls)
        resident = [int(process.state()["resident"]) for process in (first, second)]
        order = [(first, original_turns), (second, candidate_turns)]
        for _ in range(plan.rounds):
            for batch in batches:
                for process, turns in order:
                    turns[batch].append(_turn(process, batch, plan))
            order.reverse()
        # Since their start, because CPU time spent on loading is not that of other processes.
        cpu_s = sum(process.state()["cpu"] for process in (first, second)) / 1e9
    largest = batches[-1]
    turns_at_largest = candidate_turns[largest]
    thousands = _calls(turns_at_largest) * largest / 1000
    original_ms = [t.median_ms for t in original_turns[largest]]
    return PairedRun(
        figures=tuple(_figures(b, candidate_turns[b], original_turns[b]) for b in batches),
        original_bytes=resident[0],
        candidate_bytes=resident[1],
        core_s_per_1000=sum(t.cpu_s for t in turns_at_largest) / thousands,
        joules_per_1000=sum(t.joules for t in turns_at_largest) / thousands,
        original_ms=(min(original_ms), max(original_ms)),
        other_cores=contention.cores(cpu_s),
    )


def _turn(process: CandidateProcess, batch: int, plan: MeasurementPlan) -> _Turn:
    energy = plan.meter.read()
    timing = process.turn(batch, plan.seconds, plan.least_calls)
    joules = plan.meter.joules_since(energy)
    return _Turn(tuple(d / 1e6 for d in timing["durations"]), timing["cpu"] / 1e9, joules)


def _figures(
    batch: int, candidate_turns: Sequence[_Turn], original_turns: Sequence[_Turn]
) -> RunFigures:
    adjacent = list(zip(candidate_turns, original_turns, strict=True))
    p99 = _quantile(candidate_turns, 99)
    return RunFigures(
        size=batch,
        calls=_calls(candidate_turns),
        p50_ms=_quantile(candidate_turns, 50),
        p99_ms=p99,
        rows_per_s=median(t.calls_per_ms for t in candidate_turns) * 1000 * batch,
        p50_ratio=median(a.median_ms / b.median_ms for a, b in adjacent),
        p99_ratio=p99 / _quantile(original_turns, 99),
        rows_per_s_ratio=median(a.calls_per_ms / b.calls_per_ms for a, b in adjacent),
    )


def _calls(turns: Sequence[_Turn]) -> int:
    return sum(len(turn.milliseconds) for turn in turns)


def _quantile(turns: Sequence[_Turn], percent: float) -> float:
    return float(np.percentile(np.concatenate([t.milliseconds for t in turns]), percent))
