"""Repeats of a report: figures of the second one are within the intervals of the first."""

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
from maas.lifecycle.optimize.judgment.report_intervals import with_report_intervals
from maas.lifecycle.optimize.measurement.paired_runs import PairedRun, RunFigures, measurement_of
from maas.lifecycle.optimize.results import (
    Candidate,
    CandidateResult,
    Estimate,
    Measurement,
    Optimization,
    Speed,
)
from maas.lifecycle.optimize.student_t import QUANTILES, t_quantile

CANDIDATE = Candidate("c", "onnx", {"file": Path(__file__)}, {})


@pytest.mark.parametrize("probability", [0.995, 0.9995])
def test_the_quantiles_are_those_of_students_distribution(probability: float) -> None:
    quantiles = [t_quantile(probability, degrees) for degrees in range(1, 21)]
    expected = [stats.t.ppf(probability, degrees) for degrees in range(1, 21)]
    assert quantiles == pytest.approx(expected, abs=6e-4)
    assert QUANTILES[probability] == tuple(quantiles)
    assert t_quantile(probability, 99) == quantiles[-1]


def paired_run(random: np.random.Generator, noise: float) -> PairedRun:
    """Independent figures of three loads, around 1."""

    def figure() -> float:
        return float(np.exp(random.normal(0, noise)))

    loads = [RunFigures(size, 100, *(figure() for _ in range(6))) for size in (1, 8, 32)]
    return PairedRun(tuple(loads), 100, 100, figure(), 0.0, (1.0, 1.0), 0.0)


def report(random: np.random.Generator, candidates: int, runs: int) -> list[CandidateResult]:
    """Results of candidates with different noise."""
    results = []
    for number in range(candidates):
        noise = 0.01 * (1 + number % 3)
        paired_runs = [paired_run(random, noise) for _ in range(runs)]
        measurement = measurement_of(CANDIDATE, CANDIDATE, paired_runs, how={})
        results.append(CandidateResult(f"c{number}", "onnx", {}, measurement=measurement))
    return results


def widened(results: list[CandidateResult]) -> tuple[CandidateResult, ...]:
    optimization = Optimization("m:1", Task.MULTICLASS, "size", "", tuple(results), "c0", "", "")
    return with_report_intervals(optimization).results


def outside(first: CandidateResult, second: CandidateResult) -> int:
    assert first.measurement is not None and second.measurement is not None
    return sum(not inside for *_, inside in figures(first.measurement, second.measurement))


@pytest.mark.parametrize("runs", [4, 8])
def test_a_repeat_reproduces_all_figures_of_a_report(runs: int) -> None:
    random = np.random.default_rng(0)
    wide = narrow = 0
    for _ in range(60):
        first, second = report(random, 18, runs), report(random, 18, runs)
        wide += not sum(map(outside, widened(first), second))
        narrow += not sum(map(outside, first, second))
    assert wide >= 0.9 * 60
    assert narrow < 0.5 * 60, "the wider intervals are necessary"


def results_with(*reaches: float) -> list[CandidateResult]:
    """Candidates whose figures all have an interval of this reach."""
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
    for one, reach in zip(widened(results_with(0.001, 0.02, 0.3)), (0.02, 0.02, 0.3), strict=True):
        assert one.measurement is not None
        measurement = one.measurement
        for estimate in (measurement.speeds[2].p99_ratio, measurement.core_seconds_per_1000):
            assert estimate is not None and estimate.value == 2.0
            assert math.log(estimate.high / 2.0) == pytest.approx(reach * wider, rel=1e-3)
            assert math.log(2.0 / estimate.low) == pytest.approx(reach * wider, rel=1e-3)
        assert "99.9 %" in one.measurement.how["interval"]


def test_a_result_without_measurement_is_not_changed() -> None:
    failed = CandidateResult("c", "onnx", {}, failure="it could not be made")
    assert widened([failed]) == (failed,)
