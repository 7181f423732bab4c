"""Comparisons on the same rows, against counts and against metrics of each model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from maas.domain.errors import InvalidInput
from maas.domain.models import Task
from maas.lifecycle.evaluate import EvaluationRequest, evaluate
from maas.lifecycle.optimize.judgment.compare import compare
from maas.lifecycle.optimize.judgment.gate import Gate, judge
from maas.lifecycle.optimize.results import (
    Array,
    CandidateOutputs,
    Comparison,
    EvaluationRows,
    from_json,
    to_json,
)

NAMES = ("a", "b", "c")


def classified(
    seed: int = 0, rows: int = 300, scores: bool = False
) -> tuple[EvaluationRows, CandidateOutputs, CandidateOutputs]:
    """Rows, with outputs of two models that are right on about 90 % and 85 % of them."""
    random = np.random.default_rng(seed)
    y = random.integers(0, 3, rows)
    outputs = []
    for error in (0.10, 0.15):
        raw = random.random((rows, 3)) * 0.5
        right = np.where(random.random(rows) < error, (y + 1) % 3, y)
        raw[np.arange(rows), right] += 1.0
        raw /= raw.sum(axis=1, keepdims=True)
        outputs.append(
            CandidateOutputs(Task.MULTICLASS, raw.argmax(axis=1), raw if scores else None, NAMES)
        )
    evaluation = EvaluationRows({"x": np.zeros((rows, 1))}, y, Task.MULTICLASS, NAMES)
    return evaluation, outputs[0], outputs[1]


def evaluation_of(rows: EvaluationRows, outputs: CandidateOutputs) -> dict[str, Any]:
    request = EvaluationRequest(
        rows.task, rows.y, outputs.predicted, outputs.scores, NAMES, resamples=0
    ) if rows.y is not None else None  # fmt: skip
    if request is None:
        pytest.fail("there are no labels")
    return evaluate(request).values


def test_every_value_is_that_of_evaluate() -> None:
    rows, before, after = classified(scores=True)
    comparison = compare("c", rows, before, after, resamples=300)
    first, second = (evaluation_of(rows, a) for a in (before, after))
    names = {d.metric for d in comparison.differences}
    assert {"accuracy", "f1_macro", "balanced_accuracy", "log_loss", "brier"} <= names
    assert "roc_auc_macro" in names
    for difference in comparison.differences:
        assert difference.original == pytest.approx(first["metrics"][difference.metric])
        assert difference.candidate == pytest.approx(second["metrics"][difference.metric])
        assert difference.low <= difference.value <= difference.high
        worse = difference.bound - difference.value
        assert worse > 0 if difference.lower_is_better else worse < 0
    per_class = zip(first["per_class"], second["per_class"], strict=True)
    for group, (one, two) in zip(comparison.groups, per_class, strict=True):
        assert (group.name, group.rows) == (one["class"], one["rows"])
        for metric in ("recall", "precision", "f1"):
            of_class = group.difference(metric)
            assert of_class is not None
            assert of_class.original == pytest.approx(one[metric])
            assert of_class.candidate == pytest.approx(two[metric])


def test_counts_and_confusion_matrices_match_the_rows() -> None:
    rows, before, after = classified()
    y = np.asarray(rows.y)
    comparison = compare("c", rows, before, after, resamples=100)
    lost = int(((before.predicted == y) & (after.predicted != y)).sum())
    gained = int(((before.predicted != y) & (after.predicted == y)).sum())
    assert comparison.mcnemar is not None
    assert (comparison.mcnemar["lost"], comparison.mcnemar["gained"]) == (lost, gained)
    accuracy = comparison.difference("accuracy")
    assert accuracy is not None
    assert accuracy.value == pytest.approx((gained - lost) / len(y))
    assert comparison.agreement is not None
    assert comparison.agreement.candidate == pytest.approx(
        (before.predicted == after.predicted).mean()
    )
    matrix = np.asarray(comparison.confusion[1])
    assert matrix.sum() == len(y)
    assert matrix[2, 0] == ((y == 2) & (after.predicted == 0)).sum()


def test_a_paired_interval_depends_on_the_changed_rows_only() -> None:
    """The candidate differs on three rows of 300, and its interval is that of three rows."""
    rows, before, _ = classified()
    predicted = before.predicted.copy()
    predicted[:3] = (predicted[:3] + 1) % 3
    after = CandidateOutputs(Task.MULTICLASS, predicted, None, NAMES)
    accuracy = compare("c", rows, before, after, resamples=100).difference("accuracy")
    assert accuracy is not None
    assert accuracy.high - accuracy.low < 0.05


def test_equal_seeds_give_equal_bounds_which_json_preserves() -> None:
    rows, before, after = classified(scores=True)
    comparison = compare("c", rows, before, after, seed=5, resamples=200)
    again = compare("c", rows, before, after, seed=5, resamples=200)
    assert comparison == again
    assert from_json(to_json(comparison), Comparison) == comparison


def test_equal_outputs_have_an_interval_for_unseen_rows() -> None:
    rows, before, _ = classified()
    comparison = compare("c", rows, before, before, resamples=400)
    for metric in ("accuracy", "f1_macro", "balanced_accuracy", "recall_macro"):
        difference = comparison.difference(metric)
        assert difference is not None
        assert difference.value == 0
        assert -0.03 < difference.bound < -0.005
        assert difference.low < 0 < difference.high


@pytest.mark.parametrize("metric", ["f1_macro", "balanced_accuracy"])
def test_bounds_of_class_averages_are_valid_for_uneven_classes(metric: str) -> None:
    """2.5 % of each class is lost and none gained, so that the true difference is below −0.02."""
    random = np.random.default_rng(11)
    passed = 0
    gate = Gate.parse(f"{metric}>=-0.02")
    for seed in range(40):
        y = random.choice(3, 400, p=(0.6, 0.3, 0.1))
        lost = random.random(400) < 0.025
        after = np.where(lost, (y + 1) % 3, y)
        rows = EvaluationRows({"x": np.zeros((400, 1))}, y, Task.MULTICLASS, NAMES)
        pair = [CandidateOutputs(Task.MULTICLASS, p, None, NAMES) for p in (y, after)]
        comparison = compare("c", rows, pair[0], pair[1], seed=seed, resamples=300)
        passed += judge(gate, comparison).passed
    assert passed <= 2


def numbers(rows: int = 400, seed: int = 0) -> tuple[EvaluationRows, Array, Array]:
    random = np.random.default_rng(seed)
    y = random.normal(10, 3, rows)
    before = y + random.normal(0, 1, rows)
    return (
        EvaluationRows({"x": np.zeros((rows, 1))}, y, Task.REGRESSION),
        before,
        before + random.normal(0, 0.1, rows),
    )


def test_errors_of_a_regression_match_the_formulas() -> None:
    rows, before, after = numbers()
    y = np.asarray(rows.y)
    pair = [CandidateOutputs(Task.REGRESSION, p.reshape(-1, 1)) for p in (before, after)]
    comparison = compare("c", rows, pair[0], pair[1], resamples=300)
    expected = {
        "mae": np.abs(after - y).mean() - np.abs(before - y).mean(),
        "rmse": np.sqrt(((after - y) ** 2).mean()) - np.sqrt(((before - y) ** 2).mean()),
        "r2": (((before - y) ** 2).sum() - ((after - y) ** 2).sum()) / ((y - y.mean()) ** 2).sum(),
    }
    for metric, value in expected.items():
        difference = comparison.difference(metric)
        assert difference is not None
        assert difference.value == pytest.approx(value)
        assert difference.low < difference.value < difference.high
    assert judge(Gate.parse("mae<=+5%"), comparison).passed
    assert not judge(Gate.parse("mae<=-0.05"), comparison).passed


def test_an_increased_error_is_rejected() -> None:
    rows, before, _ = numbers()
    worse = before + np.random.default_rng(1).normal(0, 1, len(before))
    pair = [CandidateOutputs(Task.REGRESSION, p.reshape(-1, 1)) for p in (before, worse)]
    comparison = compare("c", rows, pair[0], pair[1], resamples=300)
    verdict = judge(Gate.parse("rmse<=+10%"), comparison)
    assert not verdict.passed
    assert "which violates rmse<=+10%" in verdict.reason


def test_without_labels_the_outputs_are_compared_by_predicted_class() -> None:
    predicted = np.repeat(np.arange(3), 200)
    after = predicted.copy()
    after[400:500] = 0
    rows = EvaluationRows({"x": np.zeros((600, 1))}, None, Task.MULTICLASS, NAMES)
    pair = [CandidateOutputs(Task.MULTICLASS, p, None, NAMES) for p in (predicted, after)]
    comparison = compare("c", rows, pair[0], pair[1], resamples=100)
    assert comparison.differences == ()
    assert comparison.agreement is not None
    assert comparison.agreement.candidate == pytest.approx(5 / 6)
    verdict = judge(Gate.parse("agreement>=0.5"), comparison)
    assert verdict.worse_groups == ("class c", "class a")
    same = compare("c", rows, pair[0], pair[0], resamples=100)
    assert judge(Gate.parse("agreement>=0.99"), same).passed


def test_agreement_of_vectors_is_their_cosine_similarity() -> None:
    random = np.random.default_rng(0)
    before = random.normal(size=(500, 8))
    rows = EvaluationRows({"x": np.zeros((500, 1))}, None, Task.EMBEDDING)
    near = compare(
        "c",
        rows,
        CandidateOutputs(Task.EMBEDDING, before),
        CandidateOutputs(Task.EMBEDDING, before * 2),
    )
    assert near.agreement is not None
    assert near.agreement.candidate == pytest.approx(1.0)
    assert 0.99 < near.agreement.level < 1
    other = CandidateOutputs(Task.EMBEDDING, random.normal(size=(500, 8)))
    far = compare("c", rows, CandidateOutputs(Task.EMBEDDING, before), other).agreement
    assert far is not None
    assert far.level < 0.3


def test_texts_agree_if_they_are_equal() -> None:
    rows = EvaluationRows({"x": np.zeros((4, 1))}, None, Task.TRANSLATION)
    before = np.array(["un", "deux", "trois", "quatre"], dtype=object)
    after = np.array(["un", "deux", "trois", "four"], dtype=object)
    comparison = compare(
        "c",
        rows,
        CandidateOutputs(Task.TRANSLATION, before),
        CandidateOutputs(Task.TRANSLATION, after),
    )
    assert comparison.agreement is not None
    assert comparison.agreement.candidate == 0.75


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("rows", "must answer each of 300 rows; got 299"),
        ("slice", "must have one label for each of 300 rows"),
        ("scores", "scores 2 classes"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(broken: str, message: str) -> None:
    rows, before, after = classified(scores=True)
    if broken == "rows":
        after = CandidateOutputs(after.task, after.predicted[:-1], None, NAMES)
    if broken == "slice":
        rows = EvaluationRows(rows.inputs, rows.y, rows.task, NAMES, {"s": np.zeros(3)})
    if broken == "scores" and after.scores is not None:
        after = CandidateOutputs(after.task, after.predicted, after.scores[:, :2], NAMES)
    with pytest.raises(InvalidInput) as refused:
        compare("c", rows, before, after, resamples=50)
    assert message in refused.value.message
