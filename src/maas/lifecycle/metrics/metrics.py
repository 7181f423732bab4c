"""Metrics, computed for many weightings of the rows at once.

Every function takes `weights` [b, n]: b weightings of the same n rows. One weighting gives the
metric itself; b bootstrap resamples, as counts of each row, give its sampling distribution. A
metric that is undefined for a weighting (an absent class, a constant target) is NaN there.

Definitions are those of scikit-learn 1.9 with `zero_division=nan`: an average leaves out classes
for which the metric is undefined instead of counting them as 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

SMALLEST_PROBABILITY = float(np.finfo(np.float64).eps)
"""Probabilities are clipped to this before a logarithm, as scikit-learn does."""


@dataclass(frozen=True)
class Classified:
    """n rows of a classification with k classes."""

    true: Ints
    """[n], class index"""
    predicted: Ints
    """[n], class index"""
    classes: int
    scores: Floats | None = None
    """[n, k]; None if the model predicts classes only"""
    probabilities: bool = False
    """Whether the scores are in [0, 1] and add up to 1 per row."""

    def take(self, rows: Bools) -> Classified:
        scores = None if self.scores is None else self.scores[rows]
        return Classified(
            self.true[rows], self.predicted[rows], self.classes, scores, self.probabilities
        )

    @cached_property
    def one_hot(self) -> Floats:
        """[n, k]; 1 at the true class"""
        rows: Floats = np.eye(self.classes)[self.true]
        return rows

    @cached_property
    def confidence(self) -> tuple[Floats, Floats]:
        """The two sides of calibration: predicted probability [n] and outcome [n] of 0 or 1.

        With two classes, the probability of class 1 and whether class 1 is true; with more, the
        largest probability and whether its class is true.
        """
        if self.scores is None:
            raise ValueError("classes without scores have no confidence")
        if self.classes == 2:
            return self.scores[:, 1], self.one_hot[:, 1]
        return self.scores.max(axis=1), (self.scores.argmax(axis=1) == self.true) * 1.0


def ratio(over: Floats, under: Floats) -> Floats:
    """over / under; NaN where `under` is 0."""
    quotient: Floats = np.divide(over, under, out=np.full(np.shape(over), np.nan), where=under != 0)
    return quotient


def mean_over_classes(values: Floats, weights: Floats | None = None) -> Floats:
    """[b] means of [b, k] over the classes for which the value is defined."""
    defined = ~np.isnan(values)
    share = defined * (np.ones_like(values) if weights is None else weights)
    return ratio((np.where(defined, values, 0.0) * share).sum(axis=1), share.sum(axis=1))


def counts(rows: Classified, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Weights per class [b, k] of true positives, of predicted rows and of actual rows."""
    right = (rows.true == rows.predicted)[:, None]
    predicted = np.eye(rows.classes)[rows.predicted]
    return weights @ (rows.one_hot * right), weights @ predicted, weights @ rows.one_hot


def confusion(rows: Classified, weights: Floats) -> Floats:
    """Confusion matrix [k, k] for weights [n]; (i, j) is the weight of class i predicted as j."""
    cells = rows.true * rows.classes + rows.predicted
    flat = np.zeros(rows.classes**2)
    np.add.at(flat, cells, weights)
    return flat.reshape(rows.classes, rows.classes)


def decisions(rows: Classified, weights: Floats) -> dict[str, Floats]:
    """Metrics of the predicted classes: [b], or [b, k] for names that end in `_per_class`."""
    right, predicted, actual = counts(rows, weights)
    precision, recall = ratio(right, predicted), ratio(right, actual)
    f1 = ratio(2 * right, predicted + actual)
    metrics = {
        "accuracy": ratio(right.sum(axis=1), weights.sum(axis=1)),
        "balanced_accuracy": mean_over_classes(recall),
    }
    for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
        if rows.classes == 2:
            metrics[name] = values[:, 1]
        metrics[f"{name}_macro"] = mean_over_classes(values)
        metrics[f"{name}_weighted"] = mean_over_classes(values, actual)
        metrics[f"{name}_per_class"] = values
    return metrics


def ranking(rows: Classified, weights: Floats) -> dict[str, Floats]:
    """ROC-AUC and average precision of each class against the rest, and their means."""
    if rows.scores is None:
        return {}
    metrics: dict[str, Floats] = {}
    if rows.classes == 2:
        roc, precision = areas(rows.scores[:, 1], rows.true == 1, weights)
        return {"roc_auc": roc, "pr_auc": precision}
    both = [areas(rows.scores[:, c], rows.true == c, weights) for c in range(rows.classes)]
    actual = weights @ rows.one_hot
    for index, name in enumerate(("roc_auc", "pr_auc")):
        values = np.stack([pair[index] for pair in both], axis=1)
        metrics[f"{name}_macro"] = mean_over_classes(values)
        metrics[f"{name}_weighted"] = mean_over_classes(values, actual)
        metrics[f"{name}_per_class"] = values
    return metrics


def areas(scores: Floats, positive: Bools, weights: Floats) -> tuple[Floats, Floats]:
    """Areas under the ROC curve and the precision-recall curve, each [b].

    Rows with equal scores form one step: a tied pair counts as one half in the first area (Mann
    and Whitney 1947), and ties share one threshold in the second, which is the average precision
    Σ (R_i − R_{i−1}) P_i.
    """
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    starts = np.flatnonzero(np.r_[True, falling[1:] != falling[:-1]])
    sorted_weights = weights[:, order]
    ups = np.add.reduceat(sorted_weights * positive[order], starts, axis=1)
    downs = np.add.reduceat(sorted_weights * ~positive[order], starts, axis=1)
    up, down = ups.cumsum(axis=1), downs.cumsum(axis=1)
    total_up, total_down = up[:, -1], down[:, -1]
    pairs = (downs * (up - ups / 2)).sum(axis=1)
    precision = np.nan_to_num(ratio(up, up + down))
    average = ratio((ups * precision).sum(axis=1), total_up)
    return ratio(pairs, total_up * total_down), average


def likelihood(rows: Classified, weights: Floats) -> dict[str, Floats]:
    """Log loss (natural logarithm) and Brier score; empty unless scores are probabilities.

    The Brier score is the squared difference summed over classes, halved for two classes, where
    it is (p − y)² of class 1.
    """
    if rows.scores is None or not rows.probabilities:
        return {}
    own = rows.scores[np.arange(len(rows.true)), rows.true]
    surprise = -np.log(np.clip(own, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY))
    squared = ((rows.scores - rows.one_hot) ** 2).sum(axis=1) / (2 if rows.classes == 2 else 1)
    total = weights.sum(axis=1)
    return {
        "log_loss": ratio(weights @ surprise, total),
        "brier": ratio(weights @ squared, total),
    }


def top_k(rows: Classified, weights: Floats, k: int) -> Floats:
    """[b] shares of rows whose true class is among the k highest scores.

    Among classes with equal scores, the one with the higher index ranks first.
    """
    if rows.scores is None:
        raise ValueError("classes without scores have no order")
    own = rows.scores[np.arange(len(rows.true)), rows.true][:, None]
    later = np.arange(rows.classes) > rows.true[:, None]
    ahead = (rows.scores > own) | ((rows.scores == own) & later)
    return ratio(weights @ (ahead.sum(axis=1) < k) * 1.0, weights.sum(axis=1))


def regression(true: Floats, predicted: Floats, weights: Floats) -> dict[str, Floats]:
    """Metrics of [n, targets] numbers, averaged uniformly over the targets."""
    error = predicted - true
    total = weights.sum(axis=1)[:, None]
    centered = true - true.mean(axis=0)
    spread = weights @ centered**2 - (weights @ centered) ** 2 / total
    # Rounding gives a constant target a tiny variance, which must count as 0.
    rounding = total * (8 * np.finfo(np.float64).eps * np.abs(true).max(axis=0)) ** 2
    spread = np.where(spread > rounding, spread, 0.0)
    metrics = {
        "mae": weights @ np.abs(error) / total,
        "rmse": np.sqrt(weights @ error**2 / total),
        "r2": 1 - ratio(weights @ error**2, spread),
        "median_absolute_error": weighted_median(np.abs(error), weights),
    }
    if np.all(true != 0):
        metrics["mape"] = weights @ np.abs(error / true) / total
    return {name: values.mean(axis=1) for name, values in metrics.items()}


def weighted_median(values: Floats, weights: Floats) -> Floats:
    """[b, targets] medians of [n, targets]: the mean of the lower and the upper one."""
    columns = []
    for column in values.T:
        order = np.argsort(column)
        below = weights[:, order].cumsum(axis=1)
        half, slack = below[:, -1:] / 2, below[:, -1:] * 1e-12
        lower = (below < half - slack).sum(axis=1)
        upper = np.minimum((below <= half + slack).sum(axis=1), len(column) - 1)
        columns.append((column[order][lower] + column[order][upper]) / 2)
    return np.stack(columns, axis=1)
