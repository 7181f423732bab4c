"""The report: it says what was tried and why, escapes what people wrote, and holds its figures."""

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
        energy_note="this machine shows no energy meter",
        notes=("other processes used 0.6 of 2 cores while this was measured",),
    )


def test_a_p99_that_was_not_measured_has_no_column_or_a_dash() -> None:
    found = optimized()

    def without(tried: CandidateResult) -> CandidateResult:
        if tried.measurement is None:
            return tried
        speeds = tuple(replace(s, p99_ms=None, p99_ratio=None) for s in tried.measurement.speeds)
        return replace(tried, measurement=replace(tried.measurement, speeds=speeds))

    head, *others = found.results
    some = replace(found, results=(without(head), *others))
    none = replace(found, results=tuple(map(without, found.results)))
    assert from_json(to_json(none), Optimization) == none
    assert "p99, 32" in render_optimization(some)
    page = render_optimization(none)
    assert "p99, 32" not in page and "What each costs; p50 in ms" in page
    assert "p99_ms_batch_32" not in summary(none)["candidates"][0]["metrics"]


def optimized() -> Optimization:
    y = np.arange(3000) % 3
    rows = EvaluationRows({"x": np.zeros((3000, 1))}, y, Task.MULTICLASS, CLASSES)

    def tried(name: str, predicted: Array, ratio: float) -> CandidateResult:
        answers = CandidateOutputs(Task.MULTICLASS, predicted, None, CLASSES)
        truth = CandidateOutputs(Task.MULTICLASS, y, None, CLASSES)
        comparison = compare(name, rows, truth, answers, resamples=100)
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
    every = (
        tried("original", y, 1.0),
        tried("int8", y, 0.4),
        tried("sabotaged", lost, 0.3),
        CandidateResult("broken", "onnx", {}, failure="it could not be converted"),
    )
    name, why = choose("throughput", every)
    return Optimization(
        model="pets:3",
        task=Task.MULTICLASS,
        objective="throughput",
        gate=GATE,
        results=every,
        chosen=name,
        chosen_reason=why,
        command="maas optimize pets:3 --objective throughput --gate 'accuracy>=-0.01'",
        how={"data_digest": "0" * 64, "machine": {"cores": 2}},
        created_at=1_700_000_000.0,
    )


@pytest.fixture(scope="module")
def found() -> Optimization:
    return optimized()


def text_of(html: str) -> str:
    return re.sub(r"<[^>]+>", " ", html)


def test_the_report_says_what_was_tried_and_why(found: Optimization) -> None:
    html = render_optimization(found)
    for said in (
        "pets:3",
        "Chosen: int8",
        "dropped",
        "kept",
        "it could not be converted",
        "class &lt;dog&gt; lost 100 % of its 1,000 rows",
        "this machine shows no energy meter",
        "other processes used 0.6 of 2 cores",
        "maas optimize pets:3 --objective throughput",
        "12,345",
        "unknown: no shapes",
        "McNemar",
    ):
        assert said in html, said
    assert "1000 more of &lt;dog&gt; are taken for cat" in html


def test_nothing_that_people_wrote_becomes_part_of_the_page(found: Optimization) -> None:
    html = render_optimization(found)
    assert "<script" not in html
    assert "<dog>" not in html
    assert not re.search(r"(?:src|href)=\"http", html)
    assert html.count("<section>") == html.count("</section>")
    assert html.count("<details") == html.count("</details>")


def test_json_has_every_candidate_with_metrics_and_reason(found: Optimization) -> None:
    told = summary(found)
    assert told["chosen"] == "int8"
    assert [c["name"] for c in told["candidates"]] == [
        "original", "int8", "sabotaged", "broken",
    ]  # fmt: skip
    refused = told["candidates"][2]
    assert refused["passed"] is False
    assert "class <dog> lost" in refused["reason"]
    assert refused["metrics"]["accuracy"] == pytest.approx(2 / 3)
    assert refused["metrics"]["rows_per_s_ratio_batch_32"]["value"] == pytest.approx(1 / 0.3)


def test_an_optimization_is_the_same_after_it_was_kept_as_json(found: Optimization) -> None:
    assert from_json(to_json(found), Optimization) == found


def test_the_terminal_shows_a_line_for_each_with_the_chosen_one_marked(found: Optimization) -> None:
    rows = terminal_rows(found)
    assert all(len(row) == len(headings(found)) for row in rows)
    assert [row[0] for row in rows] == ["original", "int8 *", "sabotaged", "broken"]
    assert [row[1] for row in rows] == ["original", "yes", "no", "no"]


def test_a_report_without_anything_measured_is_still_a_report(found: Optimization) -> None:
    bare = tuple(
        CandidateResult(t.name, t.runtime, {}, failure="" if i == 0 else "nothing works")
        for i, t in enumerate(found.results)
    )
    html = render_optimization(replace(found, results=bare, chosen="original"))
    assert "nothing works" in html


def test_the_frontier_is_what_nobody_beats_in_both() -> None:
    def point(name: str, cost: float, quality: float) -> Point:
        return Point(
            0, name, Estimate(cost, cost, cost), Estimate(quality, quality, quality), "kept"
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


def test_what_is_far_beyond_is_at_the_edge_and_keeps_its_figures() -> None:
    """One useless candidate must not press the others into a corner."""

    def point(number: int, cost: float, quality: float, kind: str) -> Point:
        return Point(
            number, f"c{number}", Estimate(cost, cost, cost),
            Estimate(quality, quality - 0.002, quality + 0.002), kind,
        )  # fmt: skip

    points = [
        point(1, 1.0, 0.98, "original"),
        point(2, 0.5, 0.975, "kept"),
        point(3, 0.4, 0.1, "dropped"),
        point(4, 60.0, 0.98, "kept"),
    ]
    drawn = pareto_svg(points, ("cost", "quality"), threshold=0.97)
    assert drawn.count("(far beyond)") == 2
    assert "c3, dropped: cost 0.4 (0.4 to 0.4), quality 0.1 (0.098 to 0.102)" in drawn
    heights = [float(v) for v in re.findall(r'cy="([\d.]+)"', drawn)]
    assert max(heights) - min(heights) > 20


def test_a_profile_says_what_is_missing_and_survives_what_anybody_sent() -> None:
    lines = dict(profile_lines({"parameters": "many", "file_bytes": 5_000_000}))
    assert lines["size"] == "5,000,000 bytes"
    assert lines["parameters"] == "unknown: it was not measured"
