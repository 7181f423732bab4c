"""Compare: a candidate with the original, row by row, class by class, slice by slice."""

from __future__ import annotations

from collections.abc import Iterable

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
    DRAWN,
    FEWEST,
    ONE_SIDE,
    WORST_SEEN,
    MetricDraws,
    Pair,
    affordable,
    difference_of,
    share_difference,
    spread,
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
MOST_RANKED = 4_000_000
"""Rows times draws times classes of the metrics that sort rows; beyond it there are fewer draws."""
MOST_GROUPS = 50
MOST_CLASSES_SHOWN = 100
PER_CLASS = ("precision", "f1")
CLASSIFIED = (
    Task.BINARY, Task.MULTICLASS, Task.IMAGE_CLASSIFICATION, Task.TEXT_CLASSIFICATION,
)  # fmt: skip
ALIKE = 0.01
"""Numbers agree that differ by less than this share of the original's standard deviation."""


def compare(
    name: str,
    rows: EvaluationRows,
    original: CandidateOutputs,
    candidate: CandidateOutputs,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """What the candidate lost or won against the original on the same rows.

    With `rows.y` the metrics of the task; without it, whether both say the same. Raises
    InvalidInput if the answers do not fit the rows or each other.
    """
    for who, found in (("the original", original), (name, candidate)):
        if len(found.predicted) != len(rows):
            raise InvalidInput(
                f"{who} must answer each of {len(rows)} rows; got {len(found.predicted)}",
                field="predicted",
            )
    if len(rows) == 0:
        raise InvalidInput("at least one row is needed to compare on", field="rows")
    how = {
        "rows": len(rows),
        "data_digest": rows.digest,
        "seed": seed,
        "resamples": resamples,
        "confidence": CONFIDENCE,
        "labels": rows.y is not None,
    }
    if original.predicted.dtype.kind == "f" or rows.task is Task.REGRESSION:
        return _numbers(name, rows, original, candidate, how)
    return _classes(name, rows, original, candidate, how)


def _classes(
    name: str,
    rows: EvaluationRows,
    original: CandidateOutputs,
    candidate: CandidateOutputs,
    how: dict[str, object],
) -> Comparison:
    same = (original.predicted == candidate.predicted).astype(np.float64)
    agreement = share_difference("agreement", np.ones(len(rows)), same)
    if rows.y is None or rows.task not in CLASSIFIED:
        groups = (
            *_by_answer(original, candidate),
            *_slices(rows, "agreement", np.ones(len(same)), same),
        )
        return Comparison(name, len(rows), (), groups, agreement=agreement, how=how)
    names = original.class_names or rows.class_names
    true = class_indices(class_indices_of(np.asarray(rows.y), names), "y", len(rows))
    before, after = (_classified(true, a, len(names)) for a in (original, candidate))
    classes = max(before.classes, after.classes)
    names = names if len(names) == classes else tuple(str(i) for i in range(classes))
    right = [(c.predicted == c.true).astype(np.float64) for c in (before, after)]
    seed, wanted = int(str(how["seed"])), int(str(how["resamples"]))
    draws = affordable(wanted, len(rows), classes)
    how["resamples"] = draws
    found = spread(_decided(before, after, classes), seed, draws)
    accuracy = share_difference("accuracy", *right)
    differences = [accuracy, *_overall(found, len(rows), DRAWN, skip="accuracy")]
    scored = _scored(before, after)
    if scored is not None:
        fewer = min(draws, max(FEWEST, MOST_RANKED // (len(rows) * classes)))
        differences += _overall(spread(scored, seed, fewer), len(rows), WORST_SEEN)
    lost, gained = int(accuracy.lost or 0), int(accuracy.gained or 0)
    ones = np.ones(len(rows))
    few = classes <= MOST_CLASSES_SHOWN
    return Comparison(
        candidate=name,
        rows=len(rows),
        differences=tuple(differences),
        groups=(
            *_by_class(before, after, found, names),
            *_slices(rows, "accuracy", *right),
        ),
        mcnemar={"lost": lost, "gained": gained, "p": mcnemar_p(lost, gained)},
        agreement=agreement,
        class_names=names if few else (),
        confusion=tuple(_matrix(c, classes, ones) for c in (before, after)) if few else (),
        how=how,
    )


def _classified(true: Ints, answers: CandidateOutputs, names: int) -> Classified:
    predicted = class_indices(answers.predicted, "predicted", len(true))
    scores = answers.scores
    wide = 0 if scores is None else scores.shape[1]
    classes = max(names, wide, 2, int(max(true.max(), predicted.max())) + 1)
    if scores is not None and wide != classes:
        raise InvalidInput(
            f"the model scores {wide} classes; names and rows have {classes}", field="scores"
        )
    likely = scores is not None and are_probabilities(scores)
    return Classified(true, predicted, classes, scores, likely)


def _decided(before: Classified, after: Classified, classes: int) -> Pair:
    """Metrics of the predicted classes; the unseen rows are of the rarest class that is there."""
    present = np.bincount(before.true, minlength=classes)
    rarest = int(np.argmin(np.where(present == 0, len(before.true) + 1, present)))
    other = int(np.argmax(np.where(np.arange(classes) == rarest, -1, present)))
    true = np.append(before.true, [rarest, rarest])

    def one(predicted: Ints, unseen: list[int]) -> Classified:
        return Classified(true, np.append(predicted, unseen), classes)

    first, second = one(before.predicted, [rarest, other]), one(after.predicted, [other, rarest])
    return Pair(
        lambda weights: metrics.decisions(first, weights),
        lambda weights: metrics.decisions(second, weights),
        len(before.true),
    )


def _scored(before: Classified, after: Classified) -> Pair | None:
    """Metrics of the scores; the added rows are those with the worst and the best change."""
    if before.scores is None or after.scores is None or before.classes != after.classes:
        return None
    at = np.arange(len(before.true))
    change = after.scores[at, after.true] - before.scores[at, before.true]
    more = np.append(at, [int(change.argmin()), int(change.argmax())])
    first, second = (
        Classified(c.true[more], c.predicted[more], c.classes, c.scores[more], c.probabilities)
        for c in (before, after)
        if c.scores is not None
    )

    def statistic(rows: Classified, weights: Floats) -> dict[str, Floats]:
        found = metrics.likelihood(rows, weights)
        ranked = metrics.ranking(rows, weights) if rows.classes <= MOST_CLASSES_SHOWN else {}
        return found | {k: v for k, v in ranked.items() if not k.endswith("_per_class")}

    return Pair(
        lambda weights: statistic(first, weights),
        lambda weights: statistic(second, weights),
        len(at),
        WORST_SEEN,
    )


def _overall(
    found: dict[str, MetricDraws], rows: int, method: str, skip: str = ""
) -> Iterable[Difference]:
    for metric, values in found.items():
        if not metric.endswith("_per_class") and metric != skip:
            difference = difference_of(metric, values, rows, method)
            if difference is not None:
                yield difference


def _by_class(
    before: Classified, after: Classified, found: dict[str, MetricDraws], names: tuple[str, ...]
) -> Iterable[RowGroup]:
    for index, name in enumerate(names):
        own = before.true == index
        count = int(own.sum())
        if count == 0:
            continue
        here = [(c.predicted == index).astype(np.float64) for c in (before, after)]
        told = [share_difference("recall", here[0][own], here[1][own])]
        told += _specificity(own, here[0], here[1])
        for metric in PER_CLASS:
            more = difference_of(metric, found[f"{metric}_per_class"], count, DRAWN, index)
            told += [more] if more is not None else []
        yield RowGroup("class", name, count, tuple(told))


def _specificity(own: Bools, before: Floats, after: Floats) -> list[Difference]:
    """Of the rows of other classes, the share that is not taken for this class."""
    if own.all():
        return []
    return [share_difference("specificity", 1 - before[~own], 1 - after[~own])]


def _by_answer(original: CandidateOutputs, candidate: CandidateOutputs) -> Iterable[RowGroup]:
    """Without labels, the rows of a class are those that the original gives to it."""
    if original.task not in CLASSIFIED:
        return
    values, counts = np.unique(original.predicted, return_counts=True)
    names = original.class_names
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        own = original.predicted == value
        name = names[value] if isinstance(value, int) and names else str(value)
        here = [(a.predicted == value).astype(np.float64) for a in (original, candidate)]
        told = [share_difference("agreement", np.ones(count), here[1][own])]
        told += _specificity(own, here[0], here[1])
        yield RowGroup("class", name, count, tuple(told))


def _slices(rows: EvaluationRows, metric: str, before: Floats, after: Floats) -> Iterable[RowGroup]:
    for name, own in _slice_rows(rows):
        yield RowGroup(
            "slice", name, int(own.sum()), (share_difference(metric, before[own], after[own]),)
        )


def _slice_rows(rows: EvaluationRows) -> Iterable[tuple[str, Bools]]:
    """`slice=value` and which rows it has, the largest groups of each slice."""
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


def _matrix(rows: Classified, classes: int, ones: Floats) -> tuple[tuple[int, ...], ...]:
    wide = Classified(rows.true, rows.predicted, classes)
    return tuple(tuple(int(v) for v in line) for line in metrics.confusion(wide, ones))


def _numbers(
    name: str,
    rows: EvaluationRows,
    original: CandidateOutputs,
    candidate: CandidateOutputs,
    how: dict[str, object],
) -> Comparison:
    before = numbers(original.predicted, "predicted", len(rows))
    after = numbers(candidate.predicted, "predicted", len(rows))
    if before.shape != after.shape:
        raise InvalidInput(
            f"{name} answers {list(after.shape)}, the original {list(before.shape)}",
            field="predicted",
        )
    agreement = _alike(rows.task, before, after, int(str(how["seed"])))
    if rows.y is None or rows.task is not Task.REGRESSION:
        return Comparison(name, len(rows), (), agreement=agreement, how=how)
    true = numbers(rows.y, "y", len(rows))
    if true.shape != before.shape:
        raise InvalidInput(
            f"y has shape {list(true.shape)}, the answers {list(before.shape)}", field="y"
        )
    seed, wanted = int(str(how["seed"])), int(str(how["resamples"]))
    whole = tuple(_errors(true, before, after, seed, affordable(wanted, len(rows), 1)))
    groups = [
        RowGroup(
            "slice",
            group,
            int(own.sum()),
            tuple(_errors(true[own], before[own], after[own], seed, min(wanted, 1000))),
        )
        for group, own in _slice_rows(rows)
    ]
    return Comparison(name, len(rows), whole, tuple(groups), agreement=agreement, how=how)


def _errors(
    true: Floats, before: Floats, after: Floats, seed: int, resamples: int
) -> Iterable[Difference]:
    """MAE, RMSE and R²; errors have no limit, so the added row is the worst that was seen."""
    change = (np.abs(after - true) - np.abs(before - true)).sum(axis=1)
    more = np.append(np.arange(len(true)), [int(change.argmax()), int(change.argmin())])

    def statistic(predicted: Floats, weights: Floats) -> dict[str, Floats]:
        found = metrics.regression(true[more], predicted[more], weights)
        return {metric: found[metric] for metric in ("mae", "rmse", "r2")}

    pair = Pair(
        lambda weights: statistic(before, weights),
        lambda weights: statistic(after, weights),
        len(true),
        WORST_SEEN,
    )
    return _overall(spread(pair, seed, resamples), len(true), WORST_SEEN)


def _alike(task: Task, before: Floats, after: Floats, seed: int) -> Difference:
    """Numbers: share of rows that hardly differ. Vectors: mean cosine similarity, 0 at least."""
    if task is Task.REGRESSION or before.shape[1] == 1:
        near = ALIKE * before.std(axis=0)
        same = (np.abs(after - before) <= near).all(axis=1).astype(np.float64)
        return share_difference("agreement", np.ones(len(same)), same)
    sizes = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    cosine = np.clip(metrics.ratio((before * after).sum(axis=1), sizes), 0.0, 1.0)
    cosine = np.where(np.isnan(cosine), (before == after).all(axis=1) * 1.0, cosine)
    return mean_agreement(cosine, seed)


def mean_agreement(values: Floats, seed: int) -> Difference:
    """How alike rows are on average, from `values` [n] in [0, 1]."""
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
        method=DRAWN,
    )
