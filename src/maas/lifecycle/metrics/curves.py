"""Data of an evaluation's charts, small enough to store as JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from maas.lifecycle.metrics.metrics import Bools, Classified, Floats

MOST_POINTS = 200
MOST_CLASSES = 20
SAMPLE_ROWS = 500


def score_curves(rows: Classified, weights: Floats) -> list[dict[str, Any]]:
    """ROC and precision-recall points of class 1, or of every class against the rest.

    Each curve is {class: index, false_positive, true_positive, recall, precision: lists}. Classes
    without rows, or with all rows, have no curve; with more than 20 classes there are no curves.
    """
    if rows.scores is None or rows.classes > MOST_CLASSES:
        return []
    curves = []
    for index in [1] if rows.classes == 2 else range(rows.classes):
        positive = rows.true == index
        if weights[positive].sum() > 0 and weights[~positive].sum() > 0:
            curves.append({"class": index, **_points(rows.scores[:, index], positive, weights)})
    return curves


def _points(scores: Floats, positive: Bools, weights: Floats) -> dict[str, list[float]]:
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    last = np.flatnonzero(np.r_[falling[1:] != falling[:-1], True])
    up = np.cumsum(weights[order] * positive[order])[last]
    down = np.cumsum(weights[order] * ~positive[order])[last]
    is_decided = up + down > 0
    up, down = up[is_decided], down[is_decided]
    keep = _thinned(up, down)
    recall, alarm, precision = up / up[-1], down / down[-1], up / (up + down)
    return {
        "false_positive": _rounded(np.r_[0.0, alarm[keep]]),
        "true_positive": _rounded(np.r_[0.0, recall[keep]]),
        "recall": _rounded(recall[keep]),
        "precision": _rounded(precision[keep]),
    }


def _thinned(up: Floats, down: Floats) -> npt.NDArray[np.intp]:
    """Indices of at most 200 points: corners of the ROC curve, evenly thinned, and both ends."""
    rise, run = np.diff(up), np.diff(down)
    corner = np.r_[True, (rise[1:] * run[:-1] != rise[:-1] * run[1:]), True]
    index = np.flatnonzero(corner) if len(up) > 2 else np.arange(len(up))
    if len(index) > MOST_POINTS:
        index = index[np.linspace(0, len(index) - 1, MOST_POINTS).round().astype(int)]
    return index


def regression_pictures(true: Floats, predicted: Floats, seed: int) -> dict[str, Any]:
    """A sample of at most 500 (true, predicted) pairs and a histogram of the residuals.

    Only the first of several targets is used. `residuals` is {edges: [bins + 1], rows: [bins]} of
    predicted − true.
    """
    first_true, first_predicted = true[:, 0], predicted[:, 0]
    rows = np.arange(len(true))
    if len(rows) > SAMPLE_ROWS:
        rows = np.random.default_rng(seed).choice(rows, SAMPLE_ROWS, replace=False)
    residuals = first_predicted - first_true
    bins = min(30, max(5, round(len(true) ** 0.5)))
    low, high = residuals.min(), residuals.max()
    # Bins cannot separate residuals that differ only by rounding.
    margin = max(np.abs(residuals).max(), np.abs(first_true).max()) * 1e-9
    if high - low <= margin:
        low, high = low - max(margin, 0.5), high + max(margin, 0.5)
    number, edges = np.histogram(residuals, bins=bins, range=(low, high))
    return {
        "sample": {
            "true": [float(v) for v in first_true[rows]],
            "predicted": [float(v) for v in first_predicted[rows]],
        },
        "residuals": {"edges": [float(e) for e in edges], "rows": [int(n) for n in number]},
    }


def _rounded(values: Floats) -> list[float]:
    return [round(float(v), 6) for v in values]
