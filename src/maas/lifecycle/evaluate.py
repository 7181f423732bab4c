"""Evaluate: metrics of predictions on held-out rows, with confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from maas.domain.errors import InvalidInput
from maas.domain.models import Evidence, Task
from maas.domain.names import shown
from maas.lifecycle.data.arrays import are_probabilities, class_indices, class_scores, numbers
from maas.lifecycle.metrics import metrics
from maas.lifecycle.metrics.calibration import BINS, calibration_error, reliability
from maas.lifecycle.metrics.curves import regression_pictures, score_curves
from maas.lifecycle.metrics.intervals import CONFIDENCE, Bootstrap, affordable, bootstrap
from maas.lifecycle.metrics.metrics import Bools, Classified, Floats

Array = npt.NDArray[Any]

MOST_CLASSES_SHOWN = 100
MOST_GROUPS = 50
SLICE_METRICS = ("accuracy", "balanced_accuracy", "f1_macro", "log_loss", "mae", "rmse", "r2")
PER_CLASS = ("precision", "recall", "f1", "roc_auc", "pr_auc")
WHY_UNDEFINED = {
    "precision": "the class is never predicted",
    "recall": "no row is of this class",
    "f1": "no row is of this class or predicted as it",
    "roc_auc": "all rows, or none, are of this class",
    "pr_auc": "no row is of this class",
    "r2": "all true values are the same",
}


ZERO_DIVISION = "the denominator is 0"


@dataclass(frozen=True)
class EvaluationRequest:
    """Predictions of a model for n rows, and the true values."""

    task: Task
    y_true: Array
    """[n]; class index for a classification; [n] or [n, targets] numbers for a regression"""
    y_pred: Array
    """like y_true"""
    y_score: npt.NDArray[np.floating[Any]] | None = None
    """Scores of a classification: [n, classes]; binary also [n] or [n, 1], the score of class 1.
    Log loss, Brier score and calibration need probabilities; ranking metrics take any score."""
    class_names: tuple[str, ...] = ()
    slices: Mapping[str, Array] = field(default_factory=dict)
    """Group of each row, [n] of str, by slice name."""
    weights: npt.NDArray[np.floating[Any]] | None = None
    """Weights of the rows, [n], ≥ 0; None: all equal."""
    units: str = ""
    """Units of a regression's target."""
    seed: int = 0
    resamples: int = 1000
    """Bootstrap resamples; 0: no intervals."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics as JSON values, and how they were obtained.

    `values` has: metrics {name: number or None}, intervals {name: [low, high]}, undefined
    {name: reason}, notes {name: remark}, slices [{slice, value, rows, metrics, intervals,
    undefined}]. A classification adds classes, per_class, confusion, calibration, curves; a
    regression adds sample (true and predicted values) and residuals (a histogram).
    """

    task: Task
    values: dict[str, Any]
    how: dict[str, Any]
    """rows, seed, resamples, confidence, method"""
    request: EvaluationRequest | None = field(default=None, compare=False, repr=False)
    """The evaluated predictions; None if the evaluation was loaded from JSON."""

    def evidence(self) -> Evidence:
        return Evidence(kind="metrics", values=self.values, how=self.how)

    def to_dict(self) -> dict[str, Any]:
        return {"task": str(self.task), "values": self.values, "how": self.how}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Evaluation:
        return cls(Task(raw["task"]), dict(raw["values"]), dict(raw["how"]))


def evaluate(request: EvaluationRequest) -> Evaluation:
    """All metrics that the task and the arrays allow.

    Raises InvalidInput that names the array with the wrong length, range or a non-finite value.
    """
    weights = _checked_weights(request)
    if request.task is Task.REGRESSION:
        subject: _Subject = _Regression.of(request)
    else:
        subject = _Classification.of(request)
    resamples = affordable(request.resamples, len(weights), subject.columns)
    values = _measure(subject, weights, request.seed, resamples)
    values |= subject.pictures(weights, request.seed)
    values["slices"] = _slices(request, subject, weights, resamples)
    how: dict[str, Any] = {
        "rows": len(weights),
        "weighted": request.weights is not None,
        "seed": request.seed,
        "resamples": resamples,
        "confidence": CONFIDENCE,
        "method": "percentile bootstrap over rows" if resamples else "no intervals",
    }
    if request.units:
        how["units"] = request.units
    if resamples < request.resamples:
        how["note"] = f"{request.resamples} resamples requested; {resamples} for this many rows"
    return Evaluation(request.task, values, how, request)


@dataclass(frozen=True)
class _Classification:
    rows: Classified
    names: tuple[str, ...]

    @property
    def columns(self) -> int:
        return self.rows.classes

    @property
    def expected(self) -> dict[str, str]:
        """Reasons by name of a metric that may be missing."""
        rows = self.rows
        averages = ("macro", "weighted") if rows.classes > 2 else ()
        ranked = [f"{n}_{a}" for n in ("roc_auc", "pr_auc") for a in averages]
        without = "the model has no scores" if rows.scores is None else ""
        why = dict.fromkeys(ranked or ["roc_auc", "pr_auc"], without)
        unlikely = without or "the scores are not probabilities"
        return why | dict.fromkeys(("log_loss", "brier", "ece"), unlikely)

    def statistic(self, weights: Floats) -> dict[str, Floats]:
        rows = self.rows
        values = metrics.decisions(rows, weights) | metrics.ranking(rows, weights)
        values |= metrics.likelihood(rows, weights)
        if rows.scores is not None and rows.probabilities:
            values["ece"] = calibration_error(rows, weights)
        if rows.scores is not None:
            for k in (k for k in (2, 3, 5) if k < rows.classes):
                values[f"top_{k}_accuracy"] = metrics.top_k(rows, weights, k)
        return values

    def take(self, rows: Bools) -> _Classification:
        return _Classification(self.rows.take(rows), self.names)

    def pictures(self, weights: Floats, seed: int) -> dict[str, Any]:
        rows = self.rows
        shown_whole = rows.classes <= MOST_CLASSES_SHOWN
        return {
            "classes": list(self.names),
            "confusion": metrics.confusion(rows, weights).tolist() if shown_whole else None,
            "calibration": reliability(rows, weights) if rows.probabilities else None,
            "calibration_bins": BINS,
            "curves": score_curves(rows, weights),
        }

    @classmethod
    def of(cls, request: EvaluationRequest) -> _Classification:
        true = class_indices(request.y_true, "y_true", None)
        predicted = class_indices(request.y_pred, "y_pred", len(true))
        scores = class_scores(request.y_score, "y_score", len(true))
        classes = max(
            len(request.class_names),
            2,
            0 if scores is None else scores.shape[1],
            int(max(true.max(), predicted.max())) + 1,
        )
        if request.task is Task.BINARY and classes != 2:
            raise InvalidInput(
                f"a binary classification has 2 classes; the arrays have {classes}", field="task"
            )
        if scores is not None and scores.shape[1] != classes:
            raise InvalidInput(
                f"y_score must have one column for each of {classes} classes; "
                f"got {scores.shape[1]}",
                field="y_score",
            )
        names = request.class_names or tuple(str(c) for c in range(classes))
        if len(names) != classes:
            raise InvalidInput(
                f"class_names must name {classes} classes; got {len(names)}", field="class_names"
            )
        likely = scores is not None and are_probabilities(scores)
        return cls(Classified(true, predicted, classes, scores, likely), names)


@dataclass(frozen=True)
class _Regression:
    true: Floats
    predicted: Floats
    columns: int = 1
    names: tuple[str, ...] = ()

    @property
    def expected(self) -> dict[str, str]:
        return {"mape": "a true value is 0"}

    def statistic(self, weights: Floats) -> dict[str, Floats]:
        return metrics.regression(self.true, self.predicted, weights)

    def take(self, rows: Bools) -> _Regression:
        return _Regression(self.true[rows], self.predicted[rows], self.columns)

    def pictures(self, weights: Floats, seed: int) -> dict[str, Any]:
        return regression_pictures(self.true, self.predicted, seed)

    @classmethod
    def of(cls, request: EvaluationRequest) -> _Regression:
        true = numbers(request.y_true, "y_true", None)
        predicted = numbers(request.y_pred, "y_pred", len(true))
        if true.shape != predicted.shape:
            raise InvalidInput(
                f"y_pred must have the shape of y_true, {list(true.shape)}; "
                f"got {list(predicted.shape)}",
                field="y_pred",
            )
        return cls(true, predicted, true.shape[1])


_Subject = _Classification | _Regression


def _measure(subject: _Subject, weights: Floats, seed: int, resamples: int) -> dict[str, Any]:
    """Metrics with intervals, reasons for undefined metrics, and results per class."""
    point = subject.statistic(weights[None, :])
    spread = bootstrap(subject.statistic, weights, seed=seed, resamples=resamples)
    values: dict[str, Any] = {"metrics": {}, "intervals": {}, "undefined": {}, "notes": {}}
    for name, value in point.items():
        if name.endswith("_per_class"):
            continue
        values["metrics"][name] = _number(value[0])
        if np.isnan(value[0]):
            base = name.removesuffix("_macro").removesuffix("_weighted")
            values["undefined"][name] = WHY_UNDEFINED.get(base, ZERO_DIVISION)
            continue
        values["intervals"][name] = spread.interval(name)
        if resamples and values["intervals"][name] is None:
            values["notes"][name] = "no interval: undefined in more than a tenth of the resamples"
    for name, why in subject.expected.items():
        if name not in point:
            values["metrics"][name] = None
            values["undefined"][name] = why
    if isinstance(subject, _Classification):
        values["per_class"] = _per_class(subject, point, spread, weights)
        values["notes"] |= _left_out(point, subject.names)
    return values


def _per_class(
    subject: _Classification, point: dict[str, Floats], spread: Bootstrap, weights: Floats
) -> list[dict[str, Any]]:
    support = np.bincount(subject.rows.true, minlength=subject.rows.classes)
    entries = []
    for index, class_name in enumerate(subject.names):
        entry: dict[str, Any] = {"class": class_name, "rows": int(support[index])}
        entry |= {"intervals": {}, "undefined": {}}
        for name in PER_CLASS:
            key = f"{name}_per_class"
            if key not in point:
                continue
            entry[name] = _number(point[key][0, index])
            if entry[name] is None:
                entry["undefined"][name] = WHY_UNDEFINED[name]
            else:
                entry["intervals"][name] = spread.interval(key, index)
        entries.append(entry)
    return entries


def _left_out(point: dict[str, Floats], names: tuple[str, ...]) -> dict[str, str]:
    """Notes on averages that leave out classes for which the metric is undefined."""
    notes = {}
    for name in PER_CLASS:
        per_class = point.get(f"{name}_per_class")
        if per_class is None:
            continue
        missing = np.flatnonzero(np.isnan(per_class[0]))
        if 0 < len(missing) < len(names):
            some = ", ".join(shown(names[i], 30) for i in missing[:5])
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            for kind in ("macro", "weighted"):
                if f"{name}_{kind}" in point:
                    notes[f"{name}_{kind}"] = f"without {some}{more}: {WHY_UNDEFINED[name]}"
    return notes


def _slices(
    request: EvaluationRequest, subject: _Subject, weights: Floats, resamples: int
) -> list[dict[str, Any]]:
    """The main metrics of each group of rows, largest groups first."""
    entries: list[dict[str, Any]] = []
    for name, groups in request.slices.items():
        labels = np.asarray(groups).astype(str)
        if labels.shape != weights.shape:
            raise InvalidInput(
                f"slice {shown(name)} must have one label for each of {len(weights)} rows; "
                f"got shape {list(labels.shape)}",
                field="slices",
            )
        values, sizes = np.unique(labels, return_counts=True)
        for index in np.argsort(-sizes, kind="stable")[:MOST_GROUPS]:
            rows = labels == values[index]
            entry = {"slice": name, "value": str(values[index]), "rows": int(sizes[index])}
            if weights[rows].sum() > 0:
                entry |= _of_slice(subject.take(rows), weights[rows], request.seed, resamples)
                entries.append(entry)
    return entries


def _of_slice(subject: _Subject, weights: Floats, seed: int, resamples: int) -> dict[str, Any]:
    def main(ways: Floats) -> dict[str, Floats]:
        if isinstance(subject, _Classification):
            every = metrics.decisions(subject.rows, ways) | metrics.likelihood(subject.rows, ways)
        else:
            every = subject.statistic(ways)
        return {name: every[name] for name in SLICE_METRICS if name in every}

    point = main(weights[None, :])
    spread = bootstrap(main, weights, seed=seed, resamples=resamples)
    missing = [name for name, value in point.items() if np.isnan(value[0])]
    return {
        "metrics": {name: _number(value[0]) for name, value in point.items()},
        "intervals": {n: spread.interval(n) for n in point if n not in missing},
        "undefined": {n: WHY_UNDEFINED.get(n, ZERO_DIVISION) for n in missing},
    }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _checked_weights(request: EvaluationRequest) -> Floats:
    rows = len(request.y_true) if np.ndim(request.y_true) else 0
    if rows == 0:
        raise InvalidInput("y_true must have at least one row", field="y_true")
    if not 0 <= request.resamples <= 100_000:
        raise InvalidInput(
            f"resamples must be from 0 to 100000; got {request.resamples}", field="resamples"
        )
    if request.weights is None:
        return np.ones(rows)
    weights = np.asarray(request.weights, dtype=np.float64)
    if weights.shape != (rows,) or not np.isfinite(weights).all() or (weights < 0).any():
        raise InvalidInput(f"weights must be {rows} finite numbers ≥ 0", field="weights")
    if weights.sum() <= 0:
        raise InvalidInput("weights must not all be 0", field="weights")
    return weights
