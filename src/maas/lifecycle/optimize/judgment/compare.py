"""Comparison of a candidate with the original by row, class and slice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from maas.domain.errors import InvalidInput
from maas.domain.models import Task
from maas.domain.names import shown
from maas.lifecycle.data.arrays import are_probabilities, class_indices, numbers
from maas.lifecycle.measure import class_indices_of
from maas.lifecycle.metrics import metrics
from maas.lifecycle.metrics.metrics import Bools, Classified, Floats, Ints
from maas.lifecycle.optimize.judgment.bounds import mcnemar_p, mean_bounds
from maas.lifecycle.optimize.judgment.paired_metrics import (
    FEWEST_DRAWS,
    METHOD_DRAWN,
    METHOD_WORST_ROW,
    ONE_SIDE,
    MetricDraws,
    PairedStatistic,
    affordable_draws,
    difference_of,
    draw,
    share_difference,
)
from maas.lifecycle.optimize.results import (
    CONFIDENCE,
    CandidateOutputs,
    Comparison,
    Difference,
    EvaluationRows,
    RowGroup,
)

RESAMPLES = 2000
MOST_SLICE_RESAMPLES = 1000
MOST_RANKED = 4_000_000
"""Limit of rows × draws × classes for metrics that sort rows; they get fewer draws beyond it."""
MOST_GROUPS = 50
MOST_CLASSES_SHOWN = 100
PER_CLASS = ("precision", "f1")
CLASSIFICATION = (
    Task.BINARY, Task.MULTICLASS, Task.IMAGE_CLASSIFICATION, Task.TEXT_CLASSIFICATION,
)  # fmt: skip
TOLERANCE = 0.01
"""Two numbers agree if they differ by less than this share of the original's standard deviation."""


@dataclass(frozen=True)
class _Resampling:
    seed: int
    draws: int


def compare(
    name: str,
    rows: EvaluationRows,
    original: CandidateOutputs,
    candidate: CandidateOutputs,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Differences between the candidate and the original on the same rows.

    With `rows.y` they are those of the task's metrics; without it, of the agreement of both models.
    Raises InvalidInput if the outputs do not fit the rows or each other.
    """
    for model, outputs in (("the original", original), (name, candidate)):
        if len(outputs.predicted) != len(rows):
            raise InvalidInput(
                f"{model} must answer each of {len(rows)} rows; got {len(outputs.predicted)}",
                field="predicted",
            )
    if len(rows) == 0:
        raise InvalidInput("rows must have at least one row to compare on; got 0", field="rows")
    resampling = _Resampling(seed, resamples)
    if original.predicted.dtype.kind == "f" or rows.task is Task.REGRESSION:
        comparison = _compare_numbers(name, rows, original, candidate, resampling)
    elif rows.y is None or rows.task not in CLASSIFICATION:
        comparison = _compare_agreement(name, rows, original, candidate)
    else:
        comparison = _compare_classes(name, rows, original, candidate, resampling)
    how = {
        "rows": len(rows),
        "data_digest": rows.digest,
        "seed": seed,
        "resamples": resamples,
        "confidence": CONFIDENCE,
        "labels": rows.y is not None,
    }
    return replace(comparison, how=how | comparison.how)


def _compare_agreement(
    name: str, rows: EvaluationRows, original: CandidateOutputs, candidate: CandidateOutputs
) -> Comparison:
    """Agreement overall, by the class that the original predicts, and by slice."""
    same = (original.predicted == candidate.predicted).astype(np.float64)
    ones = np.ones(len(rows))
    agreement = share_difference("agreement", ones, same)
    groups = [*_groups_by_prediction(original, candidate), *_slices(rows, "agreement", ones, same)]
    return Comparison(name, len(rows), (), tuple(groups), agreement=agreement)


def _compare_classes(
    name: str,
    rows: EvaluationRows,
    original: CandidateOutputs,
    candidate: CandidateOutputs,
    resampling: _Resampling,
) -> Comparison:
    names = original.class_names or rows.class_names
    true = class_indices(class_indices_of(np.asarray(rows.y), names), "y", len(rows))
    before = _classified(true, original, len(names))
    after = _classified(true, candidate, len(names))
    classes = max(before.classes, after.classes)
    if len(names) != classes:
        names = tuple(str(i) for i in range(classes))
    right = [(c.predicted == c.true).astype(np.float64) for c in (before, after)]
    draws = affordable_draws(resampling.draws, len(rows), classes)
    decisions = draw(_decision_statistic(before, after, classes), resampling.seed, draws)
    accuracy = share_difference("accuracy", *right)
    differences = [accuracy, *_differences(decisions, len(rows), METHOD_DRAWN, skip="accuracy")]
    score_statistic = _score_statistic(before, after)
    if score_statistic is not None:
        fewer = min(draws, max(FEWEST_DRAWS, MOST_RANKED // (len(rows) * classes)))
        scores = draw(score_statistic, resampling.seed, fewer)
        differences += _differences(scores, len(rows), METHOD_WORST_ROW)
    lost, gained = int(accuracy.lost or 0), int(accuracy.gained or 0)
    groups = [*_classes(before, after, decisions, names), *_slices(rows, "accuracy", *right)]
    same = (original.predicted == candidate.predicted).astype(np.float64)
    comparison = Comparison(
        candidate=name,
        rows=len(rows),
        differences=tuple(differences),
        groups=tuple(groups),
        mcnemar={"lost": lost, "gained": gained, "p": mcnemar_p(lost, gained)},
        agreement=share_difference("agreement", np.ones(len(rows)), same),
        how={"resamples": draws},
    )
    if classes > MOST_CLASSES_SHOWN:
        return comparison
    matrices = (_confusion(before, classes), _confusion(after, classes))
    return replace(comparison, class_names=names, confusion=matrices)


def _classified(true: Ints, outputs: CandidateOutputs, names: int) -> Classified:
    predicted = class_indices(outputs.predicted, "predicted", len(true))
    scores = outputs.scores
    columns = 0 if scores is None else scores.shape[1]
    classes = max(names, columns, 2, int(max(true.max(), predicted.max())) + 1)
    if scores is not None and columns != classes:
        raise InvalidInput(
            f"scores must have {classes} classes, as names and rows have; the model scores "
            f"{columns} classes",
            field="scores",
        )
    probabilities = scores is not None and are_probabilities(scores)
    return Classified(true, predicted, classes, scores, probabilities)


def _decision_statistic(before: Classified, after: Classified, classes: int) -> PairedStatistic:
    """Metrics of the predicted classes. The unseen rows belong to the rarest class present."""
    present = np.bincount(before.true, minlength=classes)
    rarest = int(np.argmin(np.where(present == 0, len(before.true) + 1, present)))
    other = int(np.argmax(np.where(np.arange(classes) == rarest, -1, present)))
    true = np.append(before.true, [rarest, rarest])

    def with_unseen(predicted: Ints, unseen: list[int]) -> Classified:
        return Classified(true, np.append(predicted, unseen), classes)

    original = with_unseen(before.predicted, [rarest, other])
    candidate = with_unseen(after.predicted, [other, rarest])
    return PairedStatistic(
        lambda weights: metrics.decisions(original, weights),
        lambda weights: metrics.decisions(candidate, weights),
        len(before.true),
    )


def _score_statistic(before: Classified, after: Classified) -> PairedStatistic | None:
    """Metrics of the scores. The added rows are those with the worst and the best change."""
    if before.scores is None or after.scores is None or before.classes != after.classes:
        return None
    index = np.arange(len(before.true))
    change = after.scores[index, after.true] - before.scores[index, before.true]
    rows = np.append(index, [int(change.argmin()), int(change.argmax())])
    original = _selected(before, before.scores, rows)
    candidate = _selected(after, after.scores, rows)

    def statistic(classified: Classified, weights: Floats) -> dict[str, Floats]:
        values = metrics.likelihood(classified, weights)
        if classified.classes <= MOST_CLASSES_SHOWN:
            for metric, value in metrics.ranking(classified, weights).items():
                if not metric.endswith("_per_class"):
                    values[metric] = value
        return values

    return PairedStatistic(
        lambda weights: statistic(original, weights),
        lambda weights: statistic(candidate, weights),
        len(index),
    )


def _selected(c: Classified, scores: Floats, rows: Ints) -> Classified:
    return Classified(c.true[rows], c.predicted[rows], c.classes, scores[rows], c.probabilities)


def _differences(
    draws: dict[str, MetricDraws], rows: int, method: str, skip: str = ""
) -> Iterator[Difference]:
    """Differences of all metrics that are not per class."""
    for metric, values in draws.items():
        if not metric.endswith("_per_class") and metric != skip:
            difference = difference_of(metric, values, rows, method)
            if difference is not None:
                yield difference


def _classes(
    before: Classified, after: Classified, draws: dict[str, MetricDraws], names: tuple[str, ...]
) -> Iterator[RowGroup]:
    for index, name in enumerate(names):
        members = before.true == index
        count = int(members.sum())
        if count == 0:
            continue
        original, candidate = ((c.predicted == index).astype(np.float64) for c in (before, after))
        differences = [share_difference("recall", original[members], candidate[members])]
        differences += _specificity(members, original, candidate)
        for metric in PER_CLASS:
            values = draws[f"{metric}_per_class"]
            difference = difference_of(metric, values, count, METHOD_DRAWN, index)
            if difference is not None:
                differences.append(difference)
        yield RowGroup("class", name, count, tuple(differences))


def _specificity(members: Bools, original: Floats, candidate: Floats) -> list[Difference]:
    """Share of the rows of other classes that are not predicted as this class."""
    if members.all():
        return []
    return [share_difference("specificity", 1 - original[~members], 1 - candidate[~members])]


def _groups_by_prediction(
    original: CandidateOutputs, candidate: CandidateOutputs
) -> Iterator[RowGroup]:
    """Groups without labels: a class has the rows for which the original predicts it."""
    if original.task not in CLASSIFICATION:
        return
    values, counts = np.unique(original.predicted, return_counts=True)
    names = original.class_names
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        members = original.predicted == value
        name = names[value] if isinstance(value, int) and names else str(value)
        first, second = (
            (outputs.predicted == value).astype(np.float64) for outputs in (original, candidate)
        )
        differences = [share_difference("agreement", np.ones(count), second[members])]
        differences += _specificity(members, first, second)
        yield RowGroup("class", name, count, tuple(differences))


def _slices(rows: EvaluationRows, metric: str, before: Floats, after: Floats) -> Iterator[RowGroup]:
    for name, members in _slice_members(rows):
        difference = share_difference(metric, before[members], after[members])
        yield RowGroup("slice", name, int(members.sum()), (difference,))


def _slice_members(rows: EvaluationRows) -> Iterator[tuple[str, Bools]]:
    """`slice=value` and its rows, for the largest groups of each slice."""
    for name, groups in rows.slices.items():
        labels = np.asarray(groups).astype(str)
        if labels.shape != (len(rows),):
            raise InvalidInput(
                f"slice {shown(name)} must have one label for each of {len(rows)} rows; "
                f"got shape {list(labels.shape)}",
                field="slices",
            )
        values, sizes = np.unique(labels, return_counts=True)
        for index in np.argsort(-sizes, kind="stable")[:MOST_GROUPS]:
            yield f"{name}={values[index]}", labels == values[index]


def _confusion(classified: Classified, classes: int) -> tuple[tuple[int, ...], ...]:
    wide = Classified(classified.true, classified.predicted, classes)
    matrix = metrics.confusion(wide, np.ones(len(classified.true)))
    return tuple(tuple(row) for row in matrix.astype(int).tolist())


def _compare_numbers(
    name: str,
    rows: EvaluationRows,
    original: CandidateOutputs,
    candidate: CandidateOutputs,
    resampling: _Resampling,
) -> Comparison:
    before = numbers(original.predicted, "predicted", len(rows))
    after = numbers(candidate.predicted, "predicted", len(rows))
    if before.shape != after.shape:
        raise InvalidInput(
            f"outputs of {name} must have the shape of the original's, {list(before.shape)}; "
            f"got {list(after.shape)}",
            field="predicted",
        )
    seed = resampling.seed
    agreement = _agreement(rows.task, before, after, seed)
    if rows.y is None or rows.task is not Task.REGRESSION:
        return Comparison(name, len(rows), (), agreement=agreement)
    true = numbers(rows.y, "y", len(rows))
    if true.shape != before.shape:
        raise InvalidInput(
            f"y must have the shape of the outputs, {list(before.shape)}; got {list(true.shape)}",
            field="y",
        )
    draws = affordable_draws(resampling.draws, len(rows), 1)
    overall = tuple(_errors(true, before, after, seed, draws))
    groups = []
    for group, members in _slice_members(rows):
        fewer = min(resampling.draws, MOST_SLICE_RESAMPLES)
        differences = _errors(true[members], before[members], after[members], seed, fewer)
        groups.append(RowGroup("slice", group, int(members.sum()), tuple(differences)))
    return Comparison(name, len(rows), overall, tuple(groups), agreement=agreement)


def _errors(
    true: Floats, before: Floats, after: Floats, seed: int, draws: int
) -> Iterator[Difference]:
    """MAE, RMSE and R². Errors are unbounded, so the added row is the worst one that was seen."""
    change = (np.abs(after - true) - np.abs(before - true)).sum(axis=1)
    rows = np.append(np.arange(len(true)), [int(change.argmax()), int(change.argmin())])

    def statistic(predicted: Floats, weights: Floats) -> dict[str, Floats]:
        values = metrics.regression(true[rows], predicted[rows], weights)
        return {metric: values[metric] for metric in ("mae", "rmse", "r2")}

    pair = PairedStatistic(
        lambda weights: statistic(before, weights),
        lambda weights: statistic(after, weights),
        len(true),
    )
    return _differences(draw(pair, seed, draws), len(true), METHOD_WORST_ROW)


def _agreement(task: Task, before: Floats, after: Floats, seed: int) -> Difference:
    """Numbers: share of rows that hardly differ. Vectors: mean cosine similarity, at least 0."""
    if task is Task.REGRESSION or before.shape[1] == 1:
        limit = TOLERANCE * before.std(axis=0)
        same = (np.abs(after - before) <= limit).all(axis=1).astype(np.float64)
        return share_difference("agreement", np.ones(len(same)), same)
    norms = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    cosine = np.clip(metrics.ratio((before * after).sum(axis=1), norms), 0.0, 1.0)
    cosine = np.where(np.isnan(cosine), (before == after).all(axis=1) * 1.0, cosine)
    return mean_agreement(cosine, seed)


def mean_agreement(values: Floats, seed: int) -> Difference:
    """Mean similarity of the outputs, from `values` [n] in [0, 1] for each row."""
    value = float(values.mean())
    low, high = mean_bounds(values, ONE_SIDE / 2, seed)
    bound, _ = mean_bounds(values, ONE_SIDE, seed)
    return Difference(
        metric="agreement",
        original=1.0,
        candidate=value,
        value=value - 1,
        low=low - 1,
        high=high - 1,
        bound=bound - 1,
        level=bound,
        relative=bound - 1,
        rows=len(values),
        method=METHOD_DRAWN,
    )
