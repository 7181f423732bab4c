"""A whole report comes out again: no figure of the second run beyond the intervals of the first."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks.reproduce import figures
from maas.domain.models import Task
from maas.lifecycle.optimize.judgment.report_intervals import T_9995, with_report_intervals
from maas.lifecycle.optimize.measurement.paired_runs import (
    T_995,
    PairedRun,
    RunFigures,
    measurement_of,
)
from maas.lifecycle.optimize.results import (
    Candidate,
    CandidateResult,
    Estimate,
    Measurement,
    Optimization,
    Speed,
)

CANDIDATE = Candidate("c", "onnx", {"file": Path(__file__)}, {})
Drawn = np.random.Generator


def test_the_quantiles_are_those_of_students_distribution() -> None:
    degrees = range(1, 21)
    assert pytest.approx([stats.t.ppf(0.9995, d) for d in degrees], abs=6e-4) == T_9995
    assert pytest.approx([stats.t.ppf(0.995, d) for d in degrees], abs=6e-4) == T_995


def paired_run(drawn: Drawn, noise: float) -> PairedRun:
    """All figures of three loads, around 1, each by itself."""

    def one() -> float:
        return float(np.exp(drawn.normal(0, noise)))

    loads = [RunFigures(size, 100, *(one() for _ in range(6))) for size in (1, 8, 32)]
    return PairedRun(tuple(loads), 100, 100, one(), 0.0, (1.0, 1.0), 0.0)


def report(drawn: Drawn, candidates: int, runs: int) -> list[CandidateResult]:
    """Candidates with more and with less noise."""
    found = []
    for number in range(candidates):
        noise = 0.01 * (1 + number % 3)
        told = [paired_run(drawn, noise) for _ in range(runs)]
        measured = measurement_of(CANDIDATE, CANDIDATE, told, how={})
        found.append(CandidateResult(f"c{number}", "onnx", {}, measurement=measured))
    return found


def widened(tried: list[CandidateResult]) -> tuple[CandidateResult, ...]:
    told = Optimization("m:1", Task.MULTICLASS, "size", "", tuple(tried), "c0", "", "")
    return with_report_intervals(told).results


def outside(first: CandidateResult, second: CandidateResult) -> int:
    assert first.measurement is not None and second.measurement is not None
    return sum(not held for *_, held in figures(first.measurement, second.measurement))


@pytest.mark.parametrize("runs", [4, 8])
def test_all_figures_of_a_report_are_found_again(runs: int) -> None:
    drawn = np.random.default_rng(0)
    again = narrow = 0
    for _ in range(60):
        first, second = report(drawn, 18, runs), report(drawn, 18, runs)
        again += not sum(map(outside, widened(first), second))
        narrow += not sum(map(outside, first, second))
    assert again >= 0.9 * 60
    assert narrow < 0.5 * 60, "so the wider intervals are not for nothing"


def measured(*reaches: float) -> list[CandidateResult]:
    """Candidates whose every figure has such an interval."""
    return [CandidateResult("c", "onnx", {}, measurement=_measurement(reach)) for reach in reaches]


def _measurement(reach: float) -> Measurement:
    (one,) = report(np.random.default_rng(0), 1, 8)
    assert one.measurement is not None
    spread = Estimate(2.0, 2.0 / math.exp(reach), 2.0 * math.exp(reach))
    same: dict[str, Any] = {
        f.name: spread for f in fields(Speed) if f.name not in ("batch", "calls")
    }
    speeds = tuple(replace(speed, **same) for speed in one.measurement.speeds)
    return replace(one.measurement, speeds=speeds, core_seconds_per_1000=spread)


def test_no_interval_is_narrower_than_the_median_candidates() -> None:
    wider = 5.408 / 3.499
    for one, reach in zip(widened(measured(0.001, 0.02, 0.3)), (0.02, 0.02, 0.3), strict=True):
        assert one.measurement is not None
        for found in (one.measurement.speeds[2].p99_ratio, one.measurement.core_seconds_per_1000):
            assert found is not None and found.value == 2.0
            assert math.log(found.high / 2.0) == pytest.approx(reach * wider, rel=1e-3)
            assert math.log(2.0 / found.low) == pytest.approx(reach * wider, rel=1e-3)
        assert "99.9 %" in one.measurement.how["interval"]


def test_what_was_not_measured_stays_as_it_is() -> None:
    failed = CandidateResult("c", "onnx", {}, failure="it could not be made")
    assert widened([failed]) == (failed,)
