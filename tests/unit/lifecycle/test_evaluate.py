"""Evaluations: intervals, slices, undefined metrics and refused requests."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from maas.domain.errors import InvalidInput
from maas.domain.models import Task
from maas.lifecycle.evaluate import Evaluation, EvaluationRequest, evaluate
from maas.lifecycle.metrics import intervals
from maas.lifecycle.metrics.intervals import affordable, bootstrap


def digits_like(rows: int = 200, classes: int = 4) -> EvaluationRequest:
    generator = np.random.default_rng(3)
    true = generator.integers(0, classes, rows)
    scores = generator.dirichlet(np.ones(classes), rows) + 0.7 * np.eye(classes)[true]
    scores /= scores.sum(axis=1, keepdims=True)
    pens = np.where(np.arange(rows) % 3 == 0, "thick", "thin")
    return EvaluationRequest(
        Task.MULTICLASS, true, scores.argmax(axis=1), scores, slices={"pen": pens}
    )


def test_the_interval_of_accuracy_is_binomial() -> None:
    rows, right = 300, 240
    hits = np.r_[np.ones(right), np.zeros(rows - right)]
    spread = bootstrap(
        lambda ways: {"accuracy": ways @ hits / rows}, np.ones(rows), seed=0, resamples=4000
    )
    exact = stats.binom(rows, right / rows).ppf([0.025, 0.975]) / rows
    np.testing.assert_allclose(spread.interval("accuracy") or [], exact, atol=0.006)


def test_intervals_have_their_nominal_coverage() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        sample = generator.normal(5.0, 2.0, 60)
        spread = bootstrap(
            lambda ways, s=sample: {"mean": ways @ s / 60},  # type: ignore[misc]
            np.ones(60),
            seed=trial,
            resamples=300,
        )
        low, high = spread.interval("mean") or (0.0, 0.0)
        covered += low <= 5.0 <= high
    assert 178 <= covered <= 200


def test_intervals_depend_on_the_seed() -> None:
    request = digits_like()
    once, again = evaluate(request), evaluate(request)
    assert once == again
    other = evaluate(replace(request, seed=1))
    assert other.values["metrics"] == once.values["metrics"]
    assert other.values["intervals"] != once.values["intervals"]


def test_every_interval_contains_its_metric_and_values_are_json() -> None:
    evaluation = evaluate(digits_like())
    assert evaluation.how["rows"] == 200
    assert evaluation.how["resamples"] == 1000
    for name, (low, high) in evaluation.values["intervals"].items():
        # Calibration error grows under resampling; its interval need not hold the value.
        if name != "ece":
            assert low <= evaluation.values["metrics"][name] <= high, name
    text = json.dumps(evaluation.to_dict(), allow_nan=False)
    assert Evaluation.from_dict(json.loads(text)) == evaluation
    assert evaluation.evidence().kind == "metrics"


def test_a_slice_equals_the_evaluation_of_its_rows() -> None:
    request = digits_like()
    groups = evaluate(request).values["slices"]
    assert [(s["value"], s["rows"]) for s in groups] == [("thin", 133), ("thick", 67)]
    rows = request.slices["pen"] == "thick"
    assert request.y_score is not None
    alone = evaluate(
        EvaluationRequest(
            Task.MULTICLASS, request.y_true[rows], request.y_pred[rows], request.y_score[rows]
        )
    )
    for name, value in groups[1]["metrics"].items():
        assert value == pytest.approx(alone.values["metrics"][name], rel=1e-12)


def test_an_undefined_metric_is_null_with_a_reason() -> None:
    true = np.array([0, 0, 1, 1, 0])
    evaluation = evaluate(
        EvaluationRequest(Task.MULTICLASS, true, true * 0, class_names=("a", "b", "c"))
    )
    values = evaluation.values
    assert values["metrics"]["roc_auc_macro"] is None
    assert values["undefined"]["roc_auc_macro"] == "the model has no scores"
    assert values["per_class"][1]["precision"] is None
    assert values["per_class"][1]["undefined"]["precision"] == "the class is never predicted"
    assert values["per_class"][2]["undefined"]["recall"] == "no row is of this class"
    assert "'b', 'c'" in values["notes"]["precision_macro"]
    raw = evaluate(EvaluationRequest(Task.BINARY, true, true, np.array([-3.0, -1, 2, 5, 0]))).values
    assert raw["metrics"]["roc_auc"] == 1.0
    assert raw["metrics"]["log_loss"] is None
    assert raw["undefined"]["log_loss"] == "the scores are not probabilities"


def test_one_class_has_a_reason_for_a_missing_roc_auc() -> None:
    values = evaluate(
        EvaluationRequest(Task.BINARY, np.ones(4), np.ones(4), np.full(4, 0.9))
    ).values
    assert values["metrics"]["roc_auc"] is None
    assert "all rows, or none" in values["undefined"]["roc_auc"]
    assert "roc_auc" not in values["intervals"]


def test_regression_has_its_metrics_units_and_pictures() -> None:
    generator = np.random.default_rng(0)
    true = generator.normal(10, 2, 900)
    evaluation = evaluate(
        EvaluationRequest(Task.REGRESSION, true, true + 0.5, units="mm", resamples=200)
    )
    assert evaluation.values["metrics"]["mae"] == pytest.approx(0.5)
    assert evaluation.how["units"] == "mm"
    assert len(evaluation.values["sample"]["true"]) == 500
    assert sum(evaluation.values["residuals"]["rows"]) == 900
    level = evaluate(EvaluationRequest(Task.REGRESSION, np.zeros(5), np.ones(5)))
    assert level.values["metrics"]["r2"] is None
    assert level.values["undefined"] == {
        "r2": "all true values are the same",
        "mape": "a true value is 0",
    }


def test_many_rows_get_fewer_resamples_and_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    assert affordable(1000, 360, 10) == 1000
    assert affordable(1000, 10_000_000) == 100
    monkeypatch.setattr(intervals, "BUDGET", 60_000)
    request = EvaluationRequest(Task.REGRESSION, np.arange(300), np.arange(300) + 1.0)
    evaluation = evaluate(request)
    assert evaluation.how["resamples"] == 200
    assert "1000 resamples requested" in evaluation.how["note"]


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("y_true", {"y_true": np.array([])}),
        ("y_true", {"y_true": np.array(["a", "b", "c"])}),
        ("y_true", {"y_true": np.array([0.5, 1, 0])}),
        ("y_pred", {"y_pred": np.array([0, 1])}),
        ("y_pred", {"y_pred": np.array([0, -1, 1])}),
        ("y_score", {"y_score": np.array([0.1, np.nan, 0.2])}),
        ("y_score", {"y_score": np.ones((3, 3)) / 3, "class_names": ("a", "b", "c", "d")}),
        ("class_names", {"class_names": ("only",)}),
        ("task", {"task": Task.BINARY, "y_true": np.array([0, 1, 2])}),
        ("weights", {"weights": np.array([1.0, -1.0, 1.0])}),
        ("weights", {"weights": np.zeros(3)}),
        ("slices", {"slices": {"pen": np.array(["x"])}}),
        ("resamples", {"resamples": -1}),
    ],
)
def test_wrong_arrays_are_refused_by_name(field: str, changes: dict[str, Any]) -> None:
    right = EvaluationRequest(Task.MULTICLASS, np.array([0, 1, 1]), np.array([0, 1, 0]))
    evaluate(right)
    with pytest.raises(InvalidInput) as refused:
        evaluate(replace(right, **changes))
    assert refused.value.details["field"] == field


def test_only_numpy_is_imported() -> None:
    code = (
        "import sys, maas.lifecycle.explain, maas.lifecycle.report;"
        "print([m for m in ('torch', 'sklearn', 'scipy', 'matplotlib', 'onnxruntime', 'PIL')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
