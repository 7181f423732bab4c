"""The whole way on a small network and on estimators: made, measured, judged, chosen, prepared."""

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
from maas.lifecycle.optimize.engine import (
    OptimizationOutcome,
    OptimizationRequest,
    ProgressReporter,
    optimize,
)
from maas.lifecycle.optimize.judgment.compare import compare
from maas.lifecycle.optimize.measurement.estimator_baseline import beside_estimator
from maas.lifecycle.optimize.measurement.in_process import outputs_of
from maas.lifecycle.optimize.measurement.paired_runs import PairedRun, RunFigures
from maas.lifecycle.optimize.prepare import prepare_optimization
from maas.lifecycle.optimize.publication import PreparedOptimization
from maas.lifecycle.optimize.report.report import render_optimization
from maas.lifecycle.optimize.results import Candidate, EvaluationRows
from maas.lifecycle.optimize.subject import NotApplicable, Subject, subject_of_rows
from tests.unit.lifecycle.optimize.subjects import digits_subject

LOST = 7


def request(**more: Any) -> OptimizationRequest:
    told: dict[str, Any] = {"model": "digits:1", "gate": "accuracy>=-0.02", "seconds": 0.002}
    return OptimizationRequest(**(told | {"runs": 2} | more))


def sabotaged(work: CandidateContext) -> dict[str, Any]:
    """The weights of one class, shuffled."""
    model = onnx.load(work.source(""))
    for tensor in model.graph.initializer:
        weights = numpy_helper.to_array(tensor)
        if weights.ndim == 2 and 10 in weights.shape:
            changed = weights.copy()
            row = changed[LOST] if weights.shape[0] == 10 else changed[:, LOST]
            np.random.default_rng(0).shuffle(row)
            tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    onnx.save_model(model, work.target)
    return {"by": "sabotage"}


def refused(work: CandidateContext) -> dict[str, Any]:
    raise NotApplicable("there is nothing to do")


def same(work: CandidateContext) -> dict[str, Any]:
    work.target.write_bytes(work.source("").read_bytes())
    return {"by": "copy"}


@pytest.fixture
def making(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Only these makers are tried."""

    def use(**makers: Callable[[CandidateContext], dict[str, Any]]) -> None:
        table = tuple(
            CandidateMethod(name.replace("_", "-"), make) for name, make in makers.items()
        )
        monkeypatch.setattr(tensor_kind, "all_makers", lambda: table)
        monkeypatch.setattr(tensor_kind, "skipped", dict)

    return use


def at_no_cost(
    candidate: Candidate, original: Candidate, rows: object, signature: object, plan: object
) -> PairedRun:
    """Bytes are real; the clock is left out, because processes that are timed take seconds."""
    size = [sum(p.stat().st_size for p in c.files.values()) for c in (candidate, original)]
    ratio = size[0] / size[1]
    figures = (RunFigures(b, 9, ratio, ratio, 1 / ratio, ratio, ratio, 1 / ratio) for b in (1, 32))
    return PairedRun(tuple(figures), 10**8, 10**8, ratio, 0.0, (1.0, 1.0), 0.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs in processes of its own has tests of its own; each takes a second to start. So do
    intervals of F1 and the like, for which rows are drawn 2,000 times."""

    def said(candidate: Candidate, signature: Signature, known: EvaluationRows) -> Any:
        return outputs_of(candidate, signature, known.inputs)

    monkeypatch.setattr(tensor_kind, "sit", at_no_cost)
    monkeypatch.setattr(tensor_kind, "answers_of", said)
    monkeypatch.setattr(tensor_kind, "compare", partial(compare, resamples=100))


def tried(found: OptimizationOutcome, name: str) -> Any:
    return next(t for t in found.optimization.results if t.name == name)


def test_a_sabotaged_class_is_refused_and_named(
    digits: Subject, tmp_path: Path, making: Callable[..., None]
) -> None:
    making(same=same, sabotage=sabotaged)
    found = optimize(digits, request(gate="accuracy>=-0.5"), tmp_path)
    assert tried(found, "same").passed
    assert not tried(found, "sabotage").passed
    assert f"class {LOST}" in tried(found, "sabotage").reason
    page = prepare_optimization(found, tmp_path).files[0][0].read_text()
    assert f"class {LOST}" in page


def test_what_is_finished_is_not_done_again(
    digits: Subject, tmp_path: Path, making: Callable[..., None]
) -> None:
    calls: list[str] = []

    def counted(work: CandidateContext) -> dict[str, Any]:
        calls.append("first")
        return same(work)

    def dies(work: CandidateContext) -> dict[str, Any]:
        calls.append("second")
        if len(calls) == 2:
            raise KeyboardInterrupt
        return same(work)

    making(first=counted, second=dies, third=refused)
    with pytest.raises(KeyboardInterrupt):
        optimize(digits, request(), tmp_path)
    found = optimize(digits, request(), tmp_path)
    assert calls == ["first", "second", "second"]
    before = [t.measurement for t in found.optimization.results]
    again = optimize(digits, request(), tmp_path)
    assert calls == ["first", "second", "second"]
    assert [t.measurement for t in again.optimization.results] == before
    assert tried(again, "third").reason == "there is nothing to do"
    optimize(digits, request(seed=1), tmp_path)
    assert calls == ["first", "second", "second", "first", "second"]


def test_a_file_that_does_not_answer_is_no_candidate(
    digits: Subject, tmp_path: Path, making: Callable[..., None]
) -> None:
    def broken(work: CandidateContext) -> dict[str, Any]:
        work.target.write_bytes(work.source("").read_bytes()[:-1000])
        return {}

    making(broken=broken)
    found = optimize(digits, request(), tmp_path)
    assert "could not be made" in tried(found, "broken").reason
    assert found.optimization.chosen == "onnx"


def test_one_that_crashes_is_told_and_the_others_are_judged(
    digits: Subject, tmp_path: Path, making: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    making(first=same, crashes=same)

    def crash(candidate: Candidate, *rest: Any) -> PairedRun:
        if candidate.name == "crashes":
            raise InferenceFailed("crashes: its process was ended by signal 11")
        return at_no_cost(candidate, *rest)

    monkeypatch.setattr(tensor_kind, "sit", crash)
    found = optimize(digits, request(), tmp_path)
    assert "signal 11" in tried(found, "crashes").reason and not tried(found, "crashes").passed
    assert tried(found, "first").passed


def test_runs_take_turns_and_are_not_done_again(
    digits: Subject, tmp_path: Path, making: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    making(first=same, second=same)
    sat: list[str] = []

    def killed(candidate: Candidate, *rest: Any) -> PairedRun:
        sat.append(candidate.name)
        if len(sat) == 5:
            raise KeyboardInterrupt
        return at_no_cost(candidate, *rest)

    monkeypatch.setattr(tensor_kind, "sit", killed)
    with pytest.raises(KeyboardInterrupt):
        optimize(digits, request(), tmp_path)
    assert sat == ["onnx", "first", "second", "onnx", "first"]
    found = optimize(digits, request(), tmp_path)
    assert sat[5:] == ["first", "second"]
    assert tried(found, "first").measurement.how["runs"] == 2


def test_a_full_disk_ends_it(digits: Subject, tmp_path: Path, making: Callable[..., None]) -> None:
    def full(work: CandidateContext) -> dict[str, Any]:
        raise OSError(28, "No space left on device")

    making(first=same, full=full)
    with pytest.raises(OutOfSpace, match="no space is left"):
        optimize(digits, request(), tmp_path)
    assert [p.name for p in (tmp_path / "made").iterdir()] == ["first"]


def test_it_stops_when_asked_and_tells_how_far_it_is(
    digits: Subject, tmp_path: Path, making: Callable[..., None]
) -> None:
    making(first=same, second=same)
    told: list[Progress] = []
    watch = ProgressReporter(told.append, lambda: any("second" in p.message for p in told))
    with pytest.raises(BuildCancelled):
        optimize(digits, request(), tmp_path, watch)
    assert [p.message for p in told] == ["making first", "making second"]
    assert told[-1].done == 1 and told[-1].total == 2 + 3 * 4


def test_what_is_wanted_must_be_known(digits: Subject, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no candidate 'onnx-int9'"):
        optimize(digits, request(candidates=("onnx-int9",)), tmp_path)
    with pytest.raises(InvalidInput, match="a rule names one of"):
        optimize(digits, request(gate="beauty>=1"), tmp_path)


def test_variants_evidence_and_report_come_out(digits: Subject, tmp_path: Path) -> None:
    wanted = ("onnx-extended", "onnx-int8-static", "onnx-distilled-int8")
    found = optimize(digits, request(candidates=wanted, epochs=2), tmp_path)
    names = [t.name for t in found.optimization.results]
    assert names[0] == "onnx" and {*wanted, "onnx-distilled"} == {*names[1:]}
    prepared = prepare_optimization(found, tmp_path)
    passed = {t.name for t in found.optimization.results[1:] if t.passed}
    assert {v.name for v in prepared.variants} == passed
    kinds = {(e.kind, e.variant) for e in prepared.evidence}
    assert ("optimization", None) in kinds and ("comparison", "onnx") in kinds
    assert all((kind, name) in kinds for name in passed for kind in ("comparison", "measurement"))
    assert json.dumps(prepared.summary)
    prepared.save(tmp_path / "publication")
    again = PreparedOptimization.load(tmp_path / "publication")
    assert again.variants == prepared.variants
    told = [json.dumps([e.to_dict() for e in p.evidence]) for p in (again, prepared)]
    assert told[0] == told[1]
    assert all(path.is_file() for path, _ in again.files)


def test_rows_without_labels_judge_by_agreement(digits: Subject, tmp_path: Path) -> None:
    inputs = digits.rows.inputs["x"]
    subject = subject_of_rows(
        digits.original, digits.signature, digits.rows.task, (inputs, None), digits.rows.class_names
    )
    told = request(gate="agreement>=0.9", candidates=("onnx-int8-static", "onnx-distilled"))
    found = optimize(subject, told, tmp_path)
    assert tried(found, "onnx-int8-static").comparison.agreement.candidate >= 0.9
    assert "not on this machine" in tried(found, "onnx-distilled").reason
    held = subject.how["rows"]
    assert held["calibration"] + held["test"] == len(inputs)


@pytest.mark.parametrize(
    "kind",
    ["sklearn.ensemble:RandomForestClassifier", "sklearn.ensemble:GradientBoostingClassifier"],
)
def test_trees_answer_as_scikit_learn_does(tmp_path: Path, kind: str) -> None:
    subject = digits_subject(
        tmp_path, family="", estimator=kind, arguments={"n_estimators": 10, "max_depth": 4}
    )
    wanted = ("onnx-extended", "onnx-int8-static", "onnx-fp16")
    found = optimize(subject, request(candidates=wanted), tmp_path / "work")
    beside = beside_estimator(subject, found.candidates, 0.05)
    assert {"onnx", "onnx-extended"} == set(beside["candidates"])
    for told in beside["candidates"].values():
        assert told["max_abs_diff"] < 1e-5
        assert set(told["rows_per_s_ratio"]) == {"1", "32"}
    assert "this graph has none" in tried(found, "onnx-int8-static").reason
    assert "32 bits only" in tried(found, "onnx-fp16").reason
    how = {**found.optimization.how, "estimator": beside}
    page = render_optimization(replace(found.optimization, how=how))
    assert "Beside scikit-learn" in page and kind.partition(":")[2] in page


def test_another_option_of_the_engine_is_measured_with_the_same_file(
    digits: Subject, tmp_path: Path
) -> None:
    found = optimize(digits, request(candidates=("onnx-lean",)), tmp_path)
    lean = found.candidates["onnx-lean"]
    assert lean.files["model.onnx"].read_bytes() == digits.model_path.read_bytes()
    assert lean.options == {"arena": False, "prepacking": False}
    assert replace(lean, options={}).options == {}
