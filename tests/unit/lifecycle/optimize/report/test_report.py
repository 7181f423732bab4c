"""The report: results and reasons, escaped texts, JSON, the terminal table and the chart."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from maas.domain.models import Task
from maas.lifecycle.optimize.judgment.choose import choose
from maas.lifecycle.optimize.judgment.compare import compare
from maas.lifecycle.optimize.judgment.gate import Gate, judge
from maas.lifecycle.optimize.report.candidate_sections import profile_lines
from maas.lifecycle.optimize.report.pictures import Point, frontier, pareto_svg
from maas.lifecycle.optimize.report.report import render_optimization
from maas.lifecycle.optimize.report.summary import headings, summary, terminal_rows
from maas.lifecycle.optimize.results import (
    Array,
    CandidateOutputs,
    CandidateResult,
    Estimate,
    EvaluationRows,
    Measurement,
    Optimization,
    Speed,
    from_json,
    to_json,
)

CLASSES = ("cat", "<dog>", "fox")
GATE = "accuracy>=-0.01"


def measurement(name: str, ratio: float) -> Measurement:
    def around(value: float) -> Estimate:
        return Estimate(value, value * 0.95, value * 1.05)

    def speed(batch: int) -> Speed:
        return Speed(
            batch,
            100,
            around(2.0 * ratio),
            around(3.0 * ratio),
            around(1000 / ratio),
            around(ratio),
            around(ratio),
            around(1 / ratio),
        )

    return Measurement(
        candidate=name,
        speeds=(speed(1), speed(32)),
        file_bytes=int(4_000_000 * ratio),
        file_ratio=ratio,
        resident_bytes=100_000_000,
        resident_ratio=1.0,
        core_seconds_per_1000=around(0.5),
        joules_per_1000=None,
        energy_note="this machine has no energy meter",
        notes=("other processes used 0.6 of 2 cores during the measurement",),
    )


def test_a_missing_p99_has_a_dash_or_no_column() -> None:
    optimization = optimized()
    head, *others = optimization.results
    some = replace(optimization, results=(without_p99(head), *others))
    none = replace(optimization, results=tuple(map(without_p99, optimization.results)))
    assert from_json(to_json(none), Optimization) == none
    assert "p99, 32" in render_optimization(some)
    page = render_optimization(none)
    assert "p99, 32" not in page and "Cost; p50 in ms" in page
    assert "p99_ms_batch_32" not in summary(none)["candidates"][0]["metrics"]


def without_p99(result: CandidateResult) -> CandidateResult:
    measurement = result.measurement
    if measurement is None:
        return result
    speeds = tuple(replace(s, p99_ms=None, p99_ratio=None) for s in measurement.speeds)
    return replace(result, measurement=replace(measurement, speeds=speeds))


def optimized() -> Optimization:
    y = np.arange(3000) % 3
    rows = EvaluationRows({"x": np.zeros((3000, 1))}, y, Task.MULTICLASS, CLASSES)

    def result(name: str, predicted: Array, ratio: float) -> CandidateResult:
        outputs = CandidateOutputs(Task.MULTICLASS, predicted, None, CLASSES)
        original = CandidateOutputs(Task.MULTICLASS, y, None, CLASSES)
        comparison = compare(name, rows, original, outputs, resamples=100)
        return CandidateResult(
            name,
            "onnx",
            {"library": "onnxruntime", "method": "<script>alert(1)</script>"},
            measurement=measurement(name, ratio),
            comparison=comparison,
            verdict=judge(Gate.parse(GATE), comparison),
            profile={"parameters": 12345, "missing": {"multiply_adds": "no shapes"}},
        )

    lost = np.where(y == 1, 0, y)
    results = (
        result("original", y, 1.0),
        result("int8", y, 0.4),
        result("sabotaged", lost, 0.3),
        CandidateResult("broken", "onnx", {}, failure="it could not be converted"),
    )
    name, reason = choose("throughput", results)
    return Optimization(
        model="pets:3",
        task=Task.MULTICLASS,
        objective="throughput",
        gate=GATE,
        results=results,
        chosen=name,
        chosen_reason=reason,
        command="maas optimize pets:3 --objective throughput --gate 'accuracy>=-0.01'",
        how={"data_digest": "0" * 64, "machine": {"cores": 2}},
        created_at=1_700_000_000.0,
    )


@pytest.fixture(scope="module")
def optimization() -> Optimization:
    return optimized()


def test_the_report_has_results_and_reasons(optimization: Optimization) -> None:
    html = render_optimization(optimization)
    for text in (
        "pets:3",
        "Chosen: int8",
        "rejected",
        "accepted",
        "it could not be converted",
        "class &lt;dog&gt; lost 100 % of its 1,000 rows",
        "this machine has no energy meter",
        "other processes used 0.6 of 2 cores",
        "maas optimize pets:3 --objective throughput",
        "12,345",
        "unknown: no shapes",
        "McNemar",
    ):
        assert text in html, text
    assert "1000 more rows of &lt;dog&gt; are predicted as cat" in html


def test_texts_from_users_are_escaped(optimization: Optimization) -> None:
    html = render_optimization(optimization)
    assert "<script" not in html
    assert "<dog>" not in html
    assert not re.search(r"(?:src|href)=\"http", html)
    assert html.count("<section>") == html.count("</section>")
    assert html.count("<details") == html.count("</details>")


def test_json_has_every_candidate_with_metrics_and_reason(optimization: Optimization) -> None:
    values = summary(optimization)
    assert values["chosen"] == "int8"
    assert [c["name"] for c in values["candidates"]] == [
        "original", "int8", "sabotaged", "broken",
    ]  # fmt: skip
    rejected = values["candidates"][2]
    assert rejected["passed"] is False
    assert "class <dog> lost" in rejected["reason"]
    assert rejected["metrics"]["accuracy"] == pytest.approx(2 / 3)
    assert rejected["metrics"]["rows_per_s_ratio_batch_32"]["value"] == pytest.approx(1 / 0.3)


def test_json_preserves_an_optimization(optimization: Optimization) -> None:
    assert from_json(to_json(optimization), Optimization) == optimization


def test_the_terminal_table_marks_the_chosen_candidate(optimization: Optimization) -> None:
    rows = terminal_rows(optimization)
    assert all(len(row) == len(headings(optimization)) for row in rows)
    assert [row[0] for row in rows] == ["original", "int8 *", "sabotaged", "broken"]
    assert [row[1] for row in rows] == ["original", "yes", "no", "no"]


def test_a_report_without_measurements_can_be_rendered(optimization: Optimization) -> None:
    bare = tuple(
        CandidateResult(t.name, t.runtime, {}, failure="" if i == 0 else "nothing works")
        for i, t in enumerate(optimization.results)
    )
    html = render_optimization(replace(optimization, results=bare, chosen="original"))
    assert "nothing works" in html


def test_no_point_beats_the_frontier_in_both() -> None:
    def point(name: str, cost: float, quality: float) -> Point:
        return Point(
            0, name, Estimate(cost, cost, cost), Estimate(quality, quality, quality), "accepted"
        )

    points = [
        point("best quality", 1.0, 0.99),
        point("beaten", 0.9, 0.90),
        point("cheapest", 0.2, 0.80),
        point("between", 0.5, 0.95),
    ]
    names = [p.name for p in frontier(points, higher_is_better=True)]
    assert names == ["cheapest", "between", "best quality"]
    assert [p.name for p in frontier(points, higher_is_better=False)] == ["cheapest"]


def test_outliers_are_drawn_at_the_edge_with_their_figures() -> None:
    """One useless candidate must not compress the others into a corner."""

    def point(number: int, cost: float, quality: float, status: str) -> Point:
        return Point(
            number, f"c{number}", Estimate(cost, cost, cost),
            Estimate(quality, quality - 0.002, quality + 0.002), status,
        )  # fmt: skip

    points = [
        point(1, 1.0, 0.98, "original"),
        point(2, 0.5, 0.975, "accepted"),
        point(3, 0.4, 0.1, "rejected"),
        point(4, 60.0, 0.98, "accepted"),
    ]
    chart = pareto_svg(points, ("cost", "quality"), threshold=0.97)
    assert chart.count("(far outside)") == 2
    assert "c3, rejected: cost 0.4 (0.4 to 0.4), quality 0.1 (0.098 to 0.102)" in chart
    heights = [float(v) for v in re.findall(r'cy="([\d.]+)"', chart)]
    assert max(heights) - min(heights) > 20


def test_a_profile_explains_missing_and_invalid_figures() -> None:
    lines = dict(profile_lines({"parameters": "many", "file_bytes": 5_000_000}))
    assert lines["size"] == "5,000,000 bytes"
    assert lines["parameters"] == "unknown: it was not measured"
