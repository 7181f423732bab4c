"""The gate: how rules are read, when they hold, and that a lost class is found and named."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from maas.domain.errors import InvalidInput
from maas.domain.models import Task
from maas.lifecycle.optimize.judgment.compare import compare
from maas.lifecycle.optimize.judgment.gate import Gate, judge
from maas.lifecycle.optimize.judgment.paired_metrics import share_difference
from maas.lifecycle.optimize.results import (
    Array,
    CandidateOutputs,
    Comparison,
    EvaluationRows,
    Verdict,
)

CLASSES = tuple("abcde")


def rows_of(y: Array, names: tuple[str, ...] = CLASSES) -> EvaluationRows:
    return EvaluationRows({"x": np.zeros((len(y), 1))}, y, Task.MULTICLASS, names)


def answers(predicted: Array, names: tuple[str, ...] = CLASSES) -> CandidateOutputs:
    return CandidateOutputs(Task.MULTICLASS, predicted, None, names)


def compared(y: Array, before: Array, after: Array, resamples: int = 200) -> Comparison:
    return compare("c", rows_of(y), answers(before), answers(after), resamples=resamples)


def judged(text: str, comparison: Comparison) -> Verdict:
    return judge(Gate.parse(text), comparison)


@pytest.mark.parametrize(
    ("text", "metric", "value", "kind"),
    [
        ("accuracy>=-0.01", "accuracy", -0.01, "difference"),
        (" f1_macro >= −0.02 ", "f1_macro", -0.02, "difference"),
        ("accuracy>=0", "accuracy", 0.0, "difference"),
        ("accuracy>=0.95", "accuracy", 0.95, "level"),
        ("mae<=+5%", "mae", 0.05, "relative"),
        ("rmse<=+0.2", "rmse", 0.2, "difference"),
        ("file_mb<=5.5", "file_mb", 5.5, "level"),
    ],
)
def test_a_rule_is_about_a_difference_a_share_or_the_candidate_itself(
    text: str, metric: str, value: float, kind: str
) -> None:
    (rule,) = Gate.parse(text).rules
    assert (rule.metric, rule.kind) == (metric, kind)
    assert rule.value == pytest.approx(value)


def test_several_rules_and_the_guard_are_one_gate() -> None:
    gate = Gate.parse("accuracy>=-0.01 and f1_macro>=-0.02, class_loss<=0.05")
    assert [r.metric for r in gate.rules] == ["accuracy", "f1_macro"]
    assert gate.class_loss == 0.05
    assert Gate.parse("").rules == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("accuracy", "METRIC>=VALUE"),
        ("accuracy>0.9", "METRIC>=VALUE"),
        ("acuracy>=-0.01", "accuracy, balanced_accuracy"),
        ("accuracy<=0.9", "accuracy>=VALUE"),
        ("mae>=1", "mae<=VALUE"),
        ("accuracy>=-0.01 and", "METRIC>=VALUE"),
        ("class_loss<=-0.1", "without a sign"),
        ("class_loss<=2", "at most 1"),
        ("file_mb<=+5%", "without a sign"),
        ("accuracy>=nan", "METRIC>=VALUE"),
        (", ".join(["accuracy>=0"] * 21), "at most 20"),
        ("a" * 2000, "at most 1000"),
    ],
)
def test_what_is_no_rule_is_refused_with_what_is_expected(text: str, told: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Gate.parse(text)
    assert told in refused.value.message
    assert refused.value.details["field"] == "gate"


def test_not_seen_worse_is_not_shown_not_worse() -> None:
    """The same answers on 100 rows: nothing was lost, but one point cannot be vouched for."""
    y = np.arange(100) % 5
    few = judged("accuracy>=-0.01", compared(y, y, y))
    assert not few.passed
    assert "cannot be shown with 100 rows; needs about" in few.reason
    needed = few.results[0].rows_needed
    assert needed is not None
    assert 290 <= needed <= 330
    many = np.arange(400) % 5
    assert judged("accuracy>=-0.01", compared(many, many, many)).passed


def test_what_is_worse_is_refused_as_worse_and_not_for_want_of_rows() -> None:
    y = np.arange(1000) % 5
    after = np.where(np.arange(1000) < 50, (y + 1) % 5, y)
    verdict = judged("accuracy>=-0.01", compared(y, y, after))
    assert not verdict.passed
    assert "which breaks accuracy>=-0.01" in verdict.reason
    assert verdict.results[0].rows_needed is None


def test_a_level_is_a_lower_bound_too() -> None:
    y = np.arange(200) % 5
    after = np.where(np.arange(200) < 8, (y + 1) % 5, y)
    assert not judged("accuracy>=0.95", compared(y, after, after)).passed
    assert judged("accuracy>=0.92", compared(y, after, after)).passed


def test_a_metric_that_was_not_measured_does_not_pass() -> None:
    y = np.arange(50) % 5
    verdict = judged("log_loss<=+0.1", compared(y, y, y))
    assert not verdict.passed
    assert "log_loss is not known; known are accuracy" in verdict.reason
    assert not judged("speedup>=1.5", compared(y, y, y)).passed


@cache
def digits() -> tuple[Array, Array, Array]:
    """Test rows of real digits, and weights [10, 65] of a linear classifier of the others: its
    rows are the classes' mean images."""
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn has the digits")
    found = datasets.load_digits()
    x, y = found.data / 16.0, found.target
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[:900], order[900:]
    means = np.stack([x[train][y[train] == k].mean(axis=0) for k in range(10)])
    weights = np.hstack([means, -0.5 * (means**2).sum(axis=1, keepdims=True)])
    return np.hstack([x[test], np.ones((len(test), 1))]), y[test], weights


@pytest.mark.parametrize("sabotaged", range(10))
def test_weights_shuffled_in_one_classs_row_are_refused_and_the_class_is_named(
    sabotaged: int,
) -> None:
    x, y, weights = digits()
    names = tuple(str(k) for k in range(10))
    shuffled = weights.copy()
    shuffled[sabotaged, :64] = np.random.default_rng(sabotaged).permutation(weights[sabotaged, :64])
    before, after = (x @ w.T for w in (weights, shuffled))
    found = compare(
        "sabotaged",
        rows_of(y, names),
        answers(before.argmax(axis=1), names),
        answers(after.argmax(axis=1), names),
        resamples=200,
    )
    verdict = judged("accuracy>=-0.5", found)
    assert not verdict.passed
    assert f"class {sabotaged}" in verdict.worse_groups
    assert f"class {sabotaged} lost" in verdict.reason


def test_a_variant_that_keeps_the_average_and_loses_a_class_is_refused() -> None:
    """A rare class is lost whole, others win as many rows: the accuracy is the same."""
    y = np.repeat(np.arange(5), (600, 600, 600, 180, 20))
    before = y.copy()
    before[:20] = 1
    after = np.where(y == 4, 0, y)
    found = compared(y, before, after)
    accuracy = found.difference("accuracy")
    assert accuracy is not None
    assert accuracy.value == 0
    verdict = judged("accuracy>=-0.02", found)
    assert not verdict.passed
    assert verdict.worse_groups == ("class e",)
    assert "class e lost 100 % of its 20 rows" in verdict.reason
    # More may be allowed where it is said.
    assert judged("accuracy>=-0.02, class_loss<=1", found).passed


def test_a_class_that_takes_the_rows_of_others_is_named_first() -> None:
    """Its own recall is better than before; what it does shows in the others."""
    y = np.arange(1000) % 5
    after = np.where(np.arange(1000) % 3 == 0, 2, y)
    verdict = judged("accuracy>=-0.5", compared(y, y, after))
    assert verdict.worse_groups[0] == "class c"
    assert "268 more rows of others are taken for class c (200 rows)" in verdict.reason
    few = np.where(np.arange(1000) < 10, 2, y)
    assert judged("accuracy>=-0.05", compared(y, y, few)).worse_groups == ()


def test_a_lost_slice_is_found_as_a_lost_class_is() -> None:
    y = np.arange(1000) % 5
    night = np.arange(1000) >= 970
    after = np.where(night & (np.arange(1000) % 2 == 0), (y + 1) % 5, y)
    rows = EvaluationRows(
        {"x": np.zeros((1000, 1))},
        y,
        Task.MULTICLASS,
        CLASSES,
        {"light": np.where(night, "night", "day")},
    )
    found = compare("c", rows, answers(y), answers(after), resamples=200)
    verdict = judged("accuracy>=-0.05", found)
    assert verdict.worse_groups == ("slice light=night",)


def test_without_any_loss_no_class_is_named_whatever_their_number() -> None:
    """The guard's error is 5 % for all classes together, not for each."""
    drawn = np.random.default_rng(3)
    named = 0
    for _ in range(20):
        y = drawn.integers(0, 5, 300)
        wrong = drawn.random((2, 300)) < 0.15
        before, after = (np.where(w, (y + 1) % 5, y) for w in wrong)
        named += bool(judged("", compared(y, before, after, 100)).worse_groups)
    assert named <= 1


def passes(lost: float, gained: float, rows: int, seed: int) -> int:
    """Of 200 repeats with other rows, how often `accuracy>=-0.01` holds. Both are wrong in 5 %."""
    drawn = np.random.default_rng(seed)
    passed = 0
    for _ in range(200):
        y = drawn.integers(0, 5, rows)
        kind = drawn.choice(4, rows, p=(lost, gained, 0.05, 0.95 - lost - gained))
        before = np.where((kind == 1) | (kind == 2), (y + 1) % 5, y)
        after = np.where((kind == 0) | (kind == 2), (y + 1) % 5, y)
        right = [(p == y).astype(np.float64) for p in (before, after)]
        found = Comparison("c", rows, (share_difference("accuracy", *right),))
        passed += judged("accuracy>=-0.01", found).passed
    return passed


@pytest.mark.parametrize(("lost", "gained"), [(0.025, 0.010), (0.015, 1e-9), (0.06, 0.045)])
def test_over_200_repeats_a_worse_variant_passes_in_at_most_five_percent(
    lost: float, gained: float
) -> None:
    """Truly 1.5 points worse where one point is allowed."""
    assert passes(lost, gained, rows=800, seed=2024) <= 10


def test_over_200_repeats_an_equal_variant_passes_as_often_as_the_power_says() -> None:
    """1 % lost and 1 % gained of 2,000 rows: the power is computed in test_bounds.py."""
    assert 0.85 <= passes(0.01, 0.01, rows=2000, seed=1) / 200 <= 0.97
