"""Measure: what a language model costs, in turns with the original.

As `optimize/measure.py` does it for rows. A turn is a few waves of answers, all of the same number
of tokens; who goes first changes from run to run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maas.domain.signature import Signature
from maas.lifecycle.optimize.measurement.energy import EnergyMeter
from maas.lifecycle.optimize.measurement.paired_runs import CpuContention, PairedRun, RunFigures
from maas.lifecycle.optimize.results import Candidate
from maas.lifecycle.optimize.text.process import TextProcess

AT_ONCE = (1, 16)
WAVES = {1: 3, 16: 1}
"""Of a turn, at least."""
TOKENS = 24
"""Of every answer."""
ENOUGH_FOR_P99 = 100
"""Answers of a turn."""
RESIDENT = "resident set of a fresh process after its answers, median"


@dataclass(frozen=True)
class _Turn:
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
        """None of fewer than 100 answers, of which it would be the slowest one."""
        few = len(self.answer_ms) < ENOUGH_FOR_P99
        return None if few else float(np.percentile(self.answer_ms, 99))

    @property
    def first(self) -> float:
        return float(np.median(self.first_ms))


def sit_text(
    candidate: Candidate, original: Candidate, signature: Signature, seconds: float, number: int
) -> PairedRun:
    """Tokens per second, time of answers and to their first token, memory and work, once."""
    meter, watch = EnergyMeter.find(), CpuContention()
    mine: dict[int, _Turn] = {}
    other: dict[int, _Turn] = {}
    with TextProcess(original, signature) as first, TextProcess(candidate, signature) as second:
        for process in (first, second):
            process.turn(1, 1, TOKENS // 4, 0.0)
        order = [(first, other), (second, mine)]
        for at_once in AT_ONCE:
            for process, turns in order if number % 2 == 0 else order[::-1]:
                turns[at_once] = _turn(process, at_once, seconds, meter)
        states = [process.state() for process in (first, second)]
    largest = mine[AT_ONCE[-1]]
    took = other[AT_ONCE[-1]].p50
    return PairedRun(
        figures=tuple(_figures(at_once, mine[at_once], other[at_once]) for at_once in AT_ONCE),
        original_bytes=int(states[0]["resident"]),
        candidate_bytes=int(states[1]["resident"]),
        core_s_per_1000=largest.core_s_per_1000,
        joules_per_1000=largest.joules_per_1000,
        original_ms=(took, took),
        other_cores=watch.cores(sum(state["cpu"] for state in states) / 1e9),
    )


def _turn(process: TextProcess, at_once: int, seconds: float, meter: EnergyMeter) -> _Turn:
    started = meter.read()
    got = process.turn(at_once, WAVES[at_once], TOKENS, seconds)
    thousands = got["tokens"] / 1000
    return _Turn(
        tokens_per_s=got["tokens"] / (got["wall"] / 1e9),
        answer_ms=tuple(d / 1e6 for d in got["durations"]),
        first_ms=tuple(d / 1e6 for d in got["firsts"]),
        core_s_per_1000=got["cpu"] / 1e9 / thousands,
        joules_per_1000=meter.joules_since(started) / thousands,
    )


def _figures(at_once: int, mine: _Turn, other: _Turn) -> RunFigures:
    mine_p99, other_p99 = mine.p99, other.p99
    return RunFigures(
        size=at_once,
        calls=len(mine.answer_ms),
        p50_ms=mine.p50,
        p99_ms=mine_p99,
        rows_per_s=mine.tokens_per_s,
        p50_ratio=mine.p50 / other.p50,
        p99_ratio=mine_p99 / other_p99 if mine_p99 and other_p99 else None,
        rows_per_s_ratio=mine.tokens_per_s / other.tokens_per_s,
        first_ms=mine.first,
        first_ratio=mine.first / other.first,
    )
