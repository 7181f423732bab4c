"""Measurement of a language model, interleaved with the original.

It corresponds to `measurement/measure.py` for models that answer rows. A turn has a few waves of
concurrent answers, all with the same number of tokens. The side that begins alternates from run to
run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maas.domain.signature import Signature
from maas.lifecycle.optimize.measurement.energy import EnergyMeter
from maas.lifecycle.optimize.measurement.paired_runs import CpuContention, PairedRun, RunFigures
from maas.lifecycle.optimize.results import Candidate
from maas.lifecycle.optimize.text.process import TextProcess

CONCURRENCY = (1, 16)
"""Numbers of concurrent answers."""
LEAST_WAVES = {1: 3, 16: 1}
"""Fewest waves of a turn, by the number of concurrent answers."""
ANSWER_TOKENS = 24
LEAST_P99_REQUESTS = 100
"""Requests per turn that a 99th percentile needs."""
RESIDENT = "resident set of a new process after its answers, median"


@dataclass(frozen=True)
class _Turn:
    """Answers of one side at one concurrency."""

    tokens_per_s: float
    answer_ms: tuple[float, ...]
    first_ms: tuple[float, ...]
    core_s_per_1000: float
    joules_per_1000: float

    @property
    def p50(self) -> float:
        return float(np.median(self.answer_ms))

    @property
    def p99(self) -> float | None:
        """None for fewer than 100 requests, where it would be the slowest one."""
        if len(self.answer_ms) < LEAST_P99_REQUESTS:
            return None
        return float(np.percentile(self.answer_ms, 99))

    @property
    def first(self) -> float:
        return float(np.median(self.first_ms))


def measure_text_pair(
    candidate: Candidate, original: Candidate, signature: Signature, seconds: float, number: int
) -> PairedRun:
    """Tokens per second, latencies, memory and CPU time of candidate and original in one run."""
    meter, contention = EnergyMeter.find(), CpuContention()
    candidate_turns: dict[int, _Turn] = {}
    original_turns: dict[int, _Turn] = {}
    with TextProcess(original, signature) as first, TextProcess(candidate, signature) as second:
        for process in (first, second):
            process.turn(1, 1, ANSWER_TOKENS // 4, 0.0)
        order = [(first, original_turns), (second, candidate_turns)]
        for concurrency in CONCURRENCY:
            for process, turns in order if number % 2 == 0 else order[::-1]:
                turns[concurrency] = _turn(process, concurrency, seconds, meter)
        states = [process.state() for process in (first, second)]
    largest = CONCURRENCY[-1]
    original_ms = original_turns[largest].p50
    return PairedRun(
        figures=tuple(_figures(n, candidate_turns[n], original_turns[n]) for n in CONCURRENCY),
        original_bytes=int(states[0]["resident"]),
        candidate_bytes=int(states[1]["resident"]),
        core_s_per_1000=candidate_turns[largest].core_s_per_1000,
        joules_per_1000=candidate_turns[largest].joules_per_1000,
        original_ms=(original_ms, original_ms),
        other_cores=contention.cores(sum(state["cpu"] for state in states) / 1e9),
    )


def _turn(process: TextProcess, concurrency: int, seconds: float, meter: EnergyMeter) -> _Turn:
    energy = meter.read()
    timing = process.turn(concurrency, LEAST_WAVES[concurrency], ANSWER_TOKENS, seconds)
    thousands = timing["tokens"] / 1000
    return _Turn(
        tokens_per_s=timing["tokens"] / (timing["wall"] / 1e9),
        answer_ms=tuple(d / 1e6 for d in timing["durations"]),
        first_ms=tuple(d / 1e6 for d in timing["firsts"]),
        core_s_per_1000=timing["cpu"] / 1e9 / thousands,
        joules_per_1000=meter.joules_since(energy) / thousands,
    )


def _figures(concurrency: int, candidate: _Turn, original: _Turn) -> RunFigures:
    p99, original_p99 = candidate.p99, original.p99
    return RunFigures(
        size=concurrency,
        calls=len(candidate.answer_ms),
        p50_ms=candidate.p50,
        p99_ms=p99,
        rows_per_s=candidate.tokens_per_s,
        p50_ratio=candidate.p50 / original.p50,
        p99_ratio=p99 / original_p99 if p99 and original_p99 else None,
        rows_per_s_ratio=candidate.tokens_per_s / original.tokens_per_s,
        first_ms=candidate.first,
        first_ratio=candidate.first / original.first,
    )
