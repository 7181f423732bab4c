"""Every metric compared with scikit-learn, with and without weights, ties and absent classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from maas.lifecycle.metrics import metrics
from maas.lifecycle.metrics.calibration import calibration_error, reliability
from maas.lifecycle.metrics.metrics import Classified

TIGHT: dict[str, Any] = {"rel": 1e-12, "abs": 1e-12}


def scored(rows: int, classes: int, seed: int, ties: bool = False) -> Classified:
    """Random rows with informative scores; `ties` leaves few distinct scores."""
    generator = np.random.default_rng(seed)
    true = generator.integers(0, classes, rows)
    scores = generator.dirichlet(np.ones(classes), rows) + 0.5 * np.eye(classes)[true]
    if ties:
        scores = np.ceil(scores * 4)
    scores /= scores.sum(axis=1, keepdims=True)
    return Classified(true, scores.argmax(axis=1), classes, scores, True)


def weightings(rows: int, seed: int) -> list[Any]:
    generator = np.random.default_rng(seed)
    uneven = generator.random(rows) * 3
    counted = generator.integers(0, 4, rows) * 1.0
    return [np.ones(rows), uneven, counted]


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("ties", [False, True])
def test_decisions_equal_scikit_learn(classes: int, ties: bool) -> None:
    rows = scored(211, classes, seed=classes, ties=ties)
    for weights in weightings(211, seed=1):
        actual = metrics.decisions(rows, weights[None])
        options: dict[str, Any] = {"sample_weight": weights}
        pair = (rows.true, rows.predicted)
        assert actual["accuracy"][0] == pytest.approx(sk.accuracy_score(*pair, **options), **TIGHT)
        assert actual["balanced_accuracy"][0] == pytest.approx(
            sk.balanced_accuracy_score(*pair, **options), **TIGHT
        )
        options |= {"labels": range(classes), "zero_division": np.nan}
        for name in ("precision", "recall", "f1"):
            score = getattr(sk, f"{name}_score")
            for average in ("macro", "weighted"):
                expected = score(*pair, average=average, **options)
                assert actual[f"{name}_{average}"][0] == pytest.approx(expected, **TIGHT)
            each = score(*pair, average=None, **options)
            np.testing.assert_allclose(actual[f"{name}_per_class"][0], each, rtol=1e-12)
        expected_matrix = sk.confusion_matrix(*pair, labels=range(classes), sample_weight=weights)
        np.testing.assert_allclose(metrics.confusion(rows, weights), expected_matrix, rtol=1e-12)


def test_binary_decisions_are_of_class_1() -> None:
    rows = scored(150, 2, seed=9)
    actual = metrics.decisions(rows, np.ones((1, 150)))
    for name in ("precision", "recall", "f1"):
        expected = getattr(sk, f"{name}_score")(rows.true, rows.predicted)
        assert actual[name][0] == pytest.approx(expected, **TIGHT)


def test_a_class_never_predicted_has_no_precision_and_an_absent_one_no_recall() -> None:
    true, predicted = np.array([0, 0, 1, 1, 1]), np.array([0, 2, 0, 0, 0])
    rows = Classified(true, predicted, 4)
    actual = metrics.decisions(rows, np.ones((1, 5)))
    np.testing.assert_array_equal(actual["precision_per_class"][0], [0.25, np.nan, 0, np.nan])
    np.testing.assert_array_equal(actual["recall_per_class"][0], [0.5, 0, np.nan, np.nan])
    np.testing.assert_allclose(actual["f1_per_class"][0], [1 / 3, 0, 0, np.nan])
    options: dict[str, Any] = {"labels": range(4), "zero_division": np.nan}
    for name in ("precision", "recall", "f1"):
        for average in ("macro", "weighted"):
            score = getattr(sk, f"{name}_score")
            expected = score(true, predicted, average=average, **options)
            assert actual[f"{name}_{average}"][0] == pytest.approx(expected, **TIGHT)
    assert actual["balanced_accuracy"][0] == pytest.approx(0.25)


@pytest.mark.parametrize("ties", [False, True])
def test_binary_areas_equal_scikit_learn(ties: bool) -> None:
    rows = scored(173, 2, seed=4, ties=ties)
    assert rows.scores is not None
    ones = rows.scores[:, 1]
    for weights in weightings(173, seed=2):
        actual = metrics.ranking(rows, weights[None])
        roc = sk.roc_auc_score(rows.true, ones, sample_weight=weights)
        pr = sk.average_precision_score(rows.true, ones, sample_weight=weights)
        assert actual["roc_auc"][0] == pytest.approx(roc, **TIGHT)
        assert actual["pr_auc"][0] == pytest.approx(pr, **TIGHT)


@pytest.mark.parametrize("ties", [False, True])
def test_multiclass_areas_equal_scikit_learn(ties: bool) -> None:
    rows = scored(190, 5, seed=5, ties=ties)
    assert rows.scores is not None
    one_hot = np.eye(5)[rows.true]
    for weights in weightings(190, seed=3):
        actual = metrics.ranking(rows, weights[None])
        for average in ("macro", "weighted"):
            options: dict[str, Any] = {"average": average, "sample_weight": weights}
            roc = sk.roc_auc_score(rows.true, rows.scores, multi_class="ovr", **options)
            pr = sk.average_precision_score(one_hot, rows.scores, **options)
            assert actual[f"roc_auc_{average}"][0] == pytest.approx(roc, **TIGHT)
            assert actual[f"pr_auc_{average}"][0] == pytest.approx(pr, **TIGHT)


def test_one_class_has_no_roc_auc_and_equal_scores_have_one_half() -> None:
    scores = np.array([[0.6, 0.4], [0.2, 0.8]])
    alone = Classified(np.array([1, 1]), np.array([0, 1]), 2, scores, True)
    assert np.isnan(metrics.ranking(alone, np.ones((1, 2)))["roc_auc"][0])
    assert metrics.ranking(alone, np.ones((1, 2)))["pr_auc"][0] == 1.0
    level = Classified(np.array([0, 1, 1]), np.zeros(3, int), 2, np.full((3, 2), 0.5), True)
    actual = metrics.ranking(level, np.ones((1, 3)))
    assert actual["roc_auc"][0] == 0.5
    assert actual["pr_auc"][0] == pytest.approx(2 / 3)


@pytest.mark.parametrize("classes", [2, 4])
def test_likelihood_equals_scikit_learn_even_at_0_and_1(classes: int) -> None:
    rows = scored(120, classes, seed=6)
    assert rows.scores is not None
    rows.scores[0] = np.eye(classes)[rows.true[0]]
    rows.scores[1] = np.eye(classes)[(rows.true[1] + 1) % classes]
    for weights in weightings(120, seed=7):
        actual = metrics.likelihood(rows, weights[None])
        options: dict[str, Any] = {"labels": range(classes), "sample_weight": weights}
        loss = sk.log_loss(rows.true, y_proba=rows.scores, **options)
        ones = rows.scores if classes > 2 else rows.scores[:, 1]
        brier = sk.brier_score_loss(rows.true, ones, **options)
        assert actual["log_loss"][0] == pytest.approx(loss, **TIGHT)
        assert actual["brier"][0] == pytest.approx(brier, **TIGHT)


@pytest.mark.parametrize("ties", [False, True])
def test_top_k_equals_scikit_learn(ties: bool) -> None:
    rows = scored(140, 6, seed=8, ties=ties)
    for weights in weightings(140, seed=9):
        for k in (1, 2, 5):
            expected = sk.top_k_accuracy_score(
                rows.true, rows.scores, k=k, sample_weight=weights, labels=range(6)
            )
            actual = metrics.top_k(rows, weights[None], k)
            assert actual[0] == pytest.approx(expected, **TIGHT)


def test_reliability_equals_scikit_learn_and_the_definition() -> None:
    rows = scored(400, 2, seed=10)
    assert rows.scores is not None
    bins = [b for b in reliability(rows, np.ones(400)) if b["rows"]]
    share, confidence = calibration_curve(rows.true, rows.scores[:, 1], n_bins=10)
    np.testing.assert_allclose([b["share"] for b in bins], share, rtol=1e-12)
    np.testing.assert_allclose([b["confidence"] for b in bins], confidence, rtol=1e-12)
    by_hand = sum(b["rows"] / 400 * abs(b["share"] - b["confidence"]) for b in bins)
    actual = calibration_error(rows, np.ones((1, 400)))
    assert actual[0] == pytest.approx(by_hand, **TIGHT)


def test_a_weight_of_2_counts_as_two_rows_in_calibration() -> None:
    rows = scored(60, 4, seed=11)
    weights = np.random.default_rng(0).integers(0, 3, 60)
    assert rows.scores is not None
    again = np.repeat(np.arange(60), weights)
    repeated = Classified(rows.true[again], rows.predicted[again], 4, rows.scores[again], True)
    actual = calibration_error(rows, weights[None].astype(np.float64))
    expected = calibration_error(repeated, np.ones((1, len(again))))
    assert actual[0] == pytest.approx(expected[0], **TIGHT)


@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("rows", [100, 101])
def test_regression_equals_scikit_learn(targets: int, rows: int) -> None:
    generator = np.random.default_rng(12)
    true = generator.normal(50, 3, (rows, targets))
    predicted = true + generator.normal(0, 1, (rows, targets)).round(1)
    for weights in [*weightings(rows, seed=13), None]:
        ways = np.ones((1, rows)) if weights is None else weights[None]
        actual = metrics.regression(true, predicted, ways)
        options: dict[str, Any] = {"sample_weight": weights}
        for name, score in (
            ("mae", sk.mean_absolute_error),
            ("rmse", sk.root_mean_squared_error),
            ("r2", sk.r2_score),
            ("median_absolute_error", sk.median_absolute_error),
            ("mape", sk.mean_absolute_percentage_error),
        ):
            expected = score(true, predicted, **options)
            assert actual[name][0] == pytest.approx(expected, rel=1e-11), name


def test_a_constant_target_has_no_r2_and_a_zero_no_percentage() -> None:
    level = np.full((7, 1), 0.1)
    # Uneven weights: only these leave rounding that looks like a spread.
    ways = np.r_[np.ones((1, 7)), np.random.default_rng(0).random((50, 7))]
    assert np.isnan(metrics.regression(level, level + 1, ways)["r2"]).all()
    zero = np.array([[0.0], [1.0]])
    assert "mape" not in metrics.regression(zero, zero, np.ones((1, 2)))


def test_many_weightings_equal_single_ones() -> None:
    rows = scored(80, 3, seed=14, ties=True)
    ways = np.stack(weightings(80, seed=15))
    for function in (metrics.decisions, metrics.ranking, metrics.likelihood):
        together = function(rows, ways)
        for index in range(len(ways)):
            alone = function(rows, ways[index : index + 1])
            for name, value in together.items():
                np.testing.assert_allclose(value[index], alone[name][0], rtol=1e-12)
