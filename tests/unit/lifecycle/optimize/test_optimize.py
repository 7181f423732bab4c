"""Complete optimizations of a small network and of estimators, with the clock replaced."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from maas.domain.errors import InferenceFailed, InvalidInput, OutOfSpace
from maas.domain.jobs import Progress
from maas.domain.signature import Signature
from maas.lifecycle.data.spec import BuildCancelled
from maas.lifecycle.optimize import tensor_kind
from maas.lifecycle.optimize.candidates.methods import CandidateContext, CandidateMethod
from maas.lifecycle.optimize.judgment.compare import compare
from maas.lifecycle.optimize.measurement.estimator_baseline import compare_with_estimator
from maas.lifecycle.optimize.measurement.in_process import outputs_of
from maas.lifecycle.optimize.measurement.paired_runs import PairedRun, RunFigures
from maas.lifecycle.optimize.optimize import (
    OptimizationOutcome,
    OptimizationRequest,
    ProgressReporter,
    optimize,
)
from maas.lifecycle.optimize.prepare import prepare_optimization
from maas.lifecycle.optimize.publication import PreparedOptimization
from maas.lifecycle.optimize.report.report import render_optimization
from maas.lifecycle.optimize.results import Candidate, EvaluationRows
from maas.lifecycle.optimize.subject import NotApplicable, Subject, subject_of_rows
from tests.unit.lifecycle.optimize.subjects import digits_subject

SABOTAGED_CLASS = 7


def request(**more: Any) -> OptimizationRequest:
    fields: dict[str, Any] = {"model": "digits:1", "gate": "accuracy>=-0.02", "seconds": 0.002}
    return OptimizationRequest(**(fields | {"runs": 2} | more))


def sabotaged(context: CandidateContext) -> dict[str, Any]:
    """Shuffles the weights of one class."""
    model = onnx.load(context.base_path(""))
    for tensor in model.graph.initializer:
        weights = numpy_helper.to_array(tensor)
        if weights.ndim == 2 and 10 in weights.shape:
            changed = weights.copy()
            row = (
                changed[SABOTAGED_CLASS] if weights.shape[0] == 10 else changed[:, SABOTAGED_CLASS]
            )
            np.random.default_rng(0).shuffle(row)
            tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    onnx.save_model(model, context.target)
    return {"by": "sabotage"}


def not_applicable(context: CandidateContext) -> dict[str, Any]:
    raise NotApplicable("there is nothing to do")


def same(context: CandidateContext) -> dict[str, Any]:
    context.target.write_bytes(context.base_path("").read_bytes())
    return {"by": "copy"}


@pytest.fixture
def use_methods(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Function that replaces the table of methods."""

    def use(**methods: Callable[[CandidateContext], dict[str, Any]]) -> None:
        table = tuple(
            CandidateMethod(name.replace("_", "-"), make) for name, make in methods.items()
        )
        monkeypatch.setattr(tensor_kind, "candidate_methods", lambda: table)
        monkeypatch.setattr(tensor_kind, "skipped", dict)

    return use


def file_bytes(candidate: Candidate) -> int:
    return sum(path.stat().st_size for path in candidate.files.values())


def unmeasured_run(
    candidate: Candidate, original: Candidate, rows: object, signature: object, plan: object
) -> PairedRun:
    """A run whose ratios follow from the file sizes, because timed processes take seconds."""
    ratio = file_bytes(candidate) / file_bytes(original)
    figures = (RunFigures(b, 9, ratio, ratio, 1 / ratio, ratio, ratio, 1 / ratio) for b in (1, 32))
    return PairedRun(tuple(figures), 10**8, 10**8, ratio, 0.0, (1.0, 1.0), 0.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces separate processes, which take a second to start, and reduces resampling.

    Both have tests of their own.
    """

    def outputs(candidate: Candidate, signature: Signature, rows: EvaluationRows) -> Any:
        return outputs_of(candidate, signature, rows.inputs)

    monkeypatch.setattr(tensor_kind, "measure_pair", unmeasured_run)
    monkeypatch.setattr(tensor_kind, "isolated_outputs_of", outputs)
    monkeypatch.setattr(tensor_kind, "compare", partial(compare, resamples=100))


def result(outcome: OptimizationOutcome, name: str) -> Any:
    return next(r for r in outcome.optimization.results if r.name == name)


def test_a_sabotaged_class_is_rejected_and_named(
    digits: Subject, tmp_path: Path, use_methods: Callable[..., None]
) -> None:
    use_methods(same=same, sabotage=sabotaged)
    outcome = optimize(digits, request(gate="accuracy>=-0.5"), tmp_path)
    assert result(outcome, "same").passed
    assert not result(outcome, "sabotage").passed
    assert f"class {SABOTAGED_CLASS}" in result(outcome, "sabotage").reason
    page = prepare_optimization(outcome, tmp_path).files[0][0].read_text()
    assert f"class {SABOTAGED_CLASS}" in page


def test_finished_steps_are_not_repeated(
    digits: Subject, tmp_path: Path, use_methods: Callable[..., None]
) -> None:
    calls: list[str] = []

    def count(context: CandidateContext) -> dict[str, Any]:
        calls.append("first")
        return same(context)

    def interrupt(context: CandidateContext) -> dict[str, Any]:
        calls.append("second")
        if len(calls) == 2:
            raise KeyboardInterrupt
        return same(context)

    use_methods(first=count, second=interrupt, third=not_applicable)
    with pytest.raises(KeyboardInterrupt):
        optimize(digits, request(), tmp_path)
    outcome = optimize(digits, request(), tmp_path)
    assert calls == ["first", "second", "second"]
    before = [r.measurement for r in outcome.optimization.results]
    again = optimize(digits, request(), tmp_path)
    assert calls == ["first", "second", "second"]
    assert [r.measurement for r in again.optimization.results] == before
    assert result(again, "third").reason == "there is nothing to do"
    optimize(digits, request(seed=1), tmp_path)
    assert calls == ["first", "second", "second", "first", "second"]


def test_a_file_that_does_not_load_is_not_a_candidate(
    digits: Subject, tmp_path: Path, use_methods: Callable[..., None]
) -> None:
    def broken(context: CandidateContext) -> dict[str, Any]:
        context.target.write_bytes(context.base_path("").read_bytes()[:-1000])
        return {}

    use_methods(broken=broken)
    outcome = optimize(digits, request(), tmp_path)
    assert "could not be made" in result(outcome, "broken").reason
    assert outcome.optimization.chosen == "onnx"


def test_a_crash_of_one_candidate_does_not_affect_the_others(
    digits: Subject,
    tmp_path: Path,
    use_methods: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_methods(first=same, crashes=same)

    def crash(candidate: Candidate, *rest: Any) -> PairedRun:
        if candidate.name == "crashes":
            raise InferenceFailed("crashes: its process was ended by signal 11")
        return unmeasured_run(candidate, *rest)

    monkeypatch.setattr(tensor_kind, "measure_pair", crash)
    outcome = optimize(digits, request(), tmp_path)
    assert (
        "signal 11" in result(outcome, "crashes").reason and not result(outcome, "crashes").passed
    )
    assert result(outcome, "first").passed


def test_runs_are_interleaved_and_not_repeated(
    digits: Subject,
    tmp_path: Path,
    use_methods: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_methods(first=same, second=same)
    measured: list[str] = []

    def interrupt(candidate: Candidate, *rest: Any) -> PairedRun:
        measured.append(candidate.name)
        if len(measured) == 5:
            raise KeyboardInterrupt
        return unmeasured_run(candidate, *rest)

    monkeypatch.setattr(tensor_kind, "measure_pair", interrupt)
    with pytest.raises(KeyboardInterrupt):
        optimize(digits, request(), tmp_path)
    assert measured == ["onnx", "first", "second", "onnx", "first"]
    outcome = optimize(digits, request(), tmp_path)
    assert measured[5:] == ["first", "second"]
    assert result(outcome, "first").measurement.how["runs"] == 2


def test_a_full_disk_stops_the_optimization(
    digits: Subject, tmp_path: Path, use_methods: Callable[..., None]
) -> None:
    def full(context: CandidateContext) -> dict[str, Any]:
        raise OSError(28, "No space left on device")

    use_methods(first=same, full=full)
    with pytest.raises(OutOfSpace, match="no space is left"):
        optimize(digits, request(), tmp_path)
    assert [p.name for p in (tmp_path / "candidates").iterdir()] == ["first"]


def test_it_reports_progress_and_can_be_cancelled(
    digits: Subject, tmp_path: Path, use_methods: Callable[..., None]
) -> None:
    use_methods(first=same, second=same)
    reports: list[Progress] = []
    progress = ProgressReporter(reports.append, lambda: any("second" in p.message for p in reports))
    with pytest.raises(BuildCancelled):
        optimize(digits, request(), tmp_path, progress)
    assert [p.message for p in reports] == ["making first", "making second"]
    assert reports[-1].done == 1 and reports[-1].total == 2 + 3 * 4


def test_unknown_candidates_and_metrics_are_refused(digits: Subject, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"candidates must be among .*; got 'onnx-int9'"):
        optimize(digits, request(candidates=("onnx-int9",)), tmp_path)
    with pytest.raises(InvalidInput, match="the metric of a rule must be one of"):
        optimize(digits, request(gate="beauty>=1"), tmp_path)


def test_an_optimization_produces_variants_evidence_and_a_report(
    digits: Subject, tmp_path: Path
) -> None:
    names = ("onnx-extended", "onnx-int8-static", "onnx-distilled-int8")
    outcome = optimize(digits, request(candidates=names, epochs=2), tmp_path)
    results = [r.name for r in outcome.optimization.results]
    assert results[0] == "onnx" and {*names, "onnx-distilled"} == {*results[1:]}
    prepared = prepare_optimization(outcome, tmp_path)
    passed = {r.name for r in outcome.optimization.results[1:] if r.passed}
    assert {v.name for v in prepared.variants} == passed
    kinds = {(e.kind, e.variant) for e in prepared.evidence}
    assert ("optimization", None) in kinds and ("comparison", "onnx") in kinds
    assert all((kind, name) in kinds for name in passed for kind in ("comparison", "measurement"))
    assert json.dumps(prepared.summary)
    prepared.save(tmp_path / "publication")
    again = PreparedOptimization.load(tmp_path / "publication")
    assert again.variants == prepared.variants
    assert evidence_of(again) == evidence_of(prepared)
    assert all(path.is_file() for path, _ in again.files)


def evidence_of(prepared: PreparedOptimization) -> str:
    return json.dumps([item.to_dict() for item in prepared.evidence])


def test_rows_without_labels_judge_by_agreement(digits: Subject, tmp_path: Path) -> None:
    inputs = digits.rows.inputs["x"]
    subject = subject_of_rows(
        digits.original, digits.signature, digits.rows.task, (inputs, None), digits.rows.class_names
    )
    names = ("onnx-int8-static", "onnx-distilled")
    outcome = optimize(subject, request(gate="agreement>=0.9", candidates=names), tmp_path)
    assert result(outcome, "onnx-int8-static").comparison.agreement.candidate >= 0.9
    assert "not on this machine" in result(outcome, "onnx-distilled").reason
    counts = subject.how["rows"]
    assert counts["calibration"] + counts["test"] == len(inputs)


@pytest.mark.parametrize(
    "estimator",
    ["sklearn.ensemble:RandomForestClassifier", "sklearn.ensemble:GradientBoostingClassifier"],
)
def test_trees_answer_as_scikit_learn_does(tmp_path: Path, estimator: str) -> None:
    subject = digits_subject(
        tmp_path, family="", estimator=estimator, arguments={"n_estimators": 10, "max_depth": 4}
    )
    names = ("onnx-extended", "onnx-int8-static", "onnx-fp16")
    outcome = optimize(subject, request(candidates=names), tmp_path / "work")
    comparison = compare_with_estimator(subject, outcome.candidates, 0.05)
    assert {"onnx", "onnx-extended"} == set(comparison["candidates"])
    for figures in comparison["candidates"].values():
        assert figures["max_abs_diff"] < 1e-5
        assert set(figures["rows_per_s_ratio"]) == {"1", "32"}
    assert "applies to Conv, MatMul, Gemm" in result(outcome, "onnx-int8-static").reason
    assert "32 bits only" in result(outcome, "onnx-fp16").reason
    how = {**outcome.optimization.how, "estimator": comparison}
    page = render_optimization(replace(outcome.optimization, how=how))
    assert "Comparison with scikit-learn" in page and estimator.partition(":")[2] in page


def test_engine_options_are_tried_with_the_same_file(digits: Subject, tmp_path: Path) -> None:
    outcome = optimize(digits, request(candidates=("onnx-lean",)), tmp_path)
    lean = outcome.candidates["onnx-lean"]
    assert lean.files["model.onnx"].read_bytes() == digits.model_path.read_bytes()
    assert lean.options == {"arena": False, "prepacking": False}
    assert replace(lean, options={}).options == {}
