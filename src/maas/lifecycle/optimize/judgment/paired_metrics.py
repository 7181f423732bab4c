"""Differences between metrics of two models on the same rows, with their bounds.

Rows get weights from the flat Dirichlet distribution (the Bayesian bootstrap, Rubin 1981), the same
for both models. One row that was not seen is added: for the cautious bound one that the candidate
loses, for the other bound one that it gains. `bounds.py` explains the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from maas.lifecycle.metrics.metric_names import LOWER_IS_BETTER
from maas.lifecycle.metrics.metrics import Floats
from maas.lifecycle.optimize.judgment.bounds import share_bound, share_difference_bound
from maas.lifecycle.optimize.results import CONFIDENCE, Difference

Statistic = Callable[[Floats], dict[str, Floats]]
"""Function from weights [b, n + 2] to metrics [b] or [b, classes]."""

LOWER_BETTER = {"perplexity"} | LOWER_IS_BETTER
ONE_SIDE = 1 - CONFIDENCE
BOTH_SIDES = ONE_SIDE / 2
CHUNK = 2_000_000
"""Most weights in memory at a time."""
BUDGET = 100_000_000
"""Limit of rows × draws × classes."""
FEWEST_DRAWS = 400
MOST_UNDEFINED = 0.1
"""Largest share of draws in which a metric may be undefined."""

METHOD_EXACT = "Dirichlet weights with one unseen row that is lost (Gaffke 2005), of counts"
METHOD_DRAWN = "Dirichlet weights with one unseen row that is lost (Rubin 1981, Gaffke 2005), drawn"
METHOD_WORST_ROW = "Dirichlet weights with the worst seen row once more (Rubin 1981), drawn"


@dataclass(frozen=True)
class PairedStatistic:
    """The same metrics of original and candidate.

    Both functions take weights [b, n + 2]: of n rows, of one more row that the candidate loses, and
    of one more row that it gains.
    """

    original: Statistic
    candidate: Statistic
    rows: int


@dataclass(frozen=True)
class MetricDraws:
    """One metric: values [] or [classes] on the rows themselves, and draws [b] or [b, classes]."""

    original: Floats
    candidate: Floats
    cautious_original: Floats
    """Draws with the row that the candidate loses."""
    cautious_candidate: Floats
    optimistic: Floats
    """Draws of the difference with the row that the candidate gains."""


def affordable_draws(resamples: int, rows: int, classes: int) -> int:
    """`resamples`, or fewer if there are very many rows and classes."""
    return min(resamples, max(FEWEST_DRAWS, BUDGET // max(1, rows * classes)))


def draw(pair: PairedStatistic, seed: int, draws: int) -> dict[str, MetricDraws]:
    """Values and draws of every metric that both models have."""
    random = np.random.default_rng(seed)
    only_seen = np.concatenate([np.ones(pair.rows), np.zeros(2)])[None, :]
    original, candidate = pair.original(only_seen), pair.candidate(only_seen)
    names = [name for name in original if name in candidate]
    blocks: dict[str, list[tuple[Floats, Floats, Floats]]] = {name: [] for name in names}
    remaining = draws
    while remaining:
        size = min(remaining, max(1, CHUNK // (pair.rows + 2)))
        weights = random.standard_exponential((size, pair.rows + 2))
        cautious, optimistic = weights, weights.copy()
        cautious[:, -1] = 0
        optimistic[:, -2] = 0
        low_original, low_candidate = pair.original(cautious), pair.candidate(cautious)
        high_original, high_candidate = pair.original(optimistic), pair.candidate(optimistic)
        for name in names:
            high = high_candidate[name] - high_original[name]
            blocks[name].append((low_original[name], low_candidate[name], high))
        remaining -= size
    metrics = {}
    for name, parts in blocks.items():
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        metrics[name] = MetricDraws(original[name][0], candidate[name][0], *columns)
    return metrics


def difference_of(
    metric: str, draws: MetricDraws, rows: int, method: str, index: int | None = None
) -> Difference | None:
    """Difference of a metric, or of its value for class `index`, with its bounds.

    None if the metric is undefined for one of the models, or in more than a tenth of the draws.
    """
    at = ... if index is None else (..., index)
    before, after = float(draws.original[at]), float(draws.candidate[at])
    original, candidate = draws.cautious_original[at], draws.cautious_candidate[at]
    optimistic = draws.optimistic[at]
    defined = ~(np.isnan(original) | np.isnan(candidate))
    optimistic_defined = ~np.isnan(optimistic)
    fewest_defined = min(defined.mean(), optimistic_defined.mean())
    if np.isnan(before) or np.isnan(after) or fewest_defined < 1 - MOST_UNDEFINED:
        return None
    original, candidate = original[defined], candidate[defined]
    optimistic = optimistic[optimistic_defined]
    lower_is_better = metric in LOWER_BETTER
    cautious = candidate - original
    relative = None
    if (original > 0).all():
        relative = _worse_end(cautious / original, ONE_SIDE, lower_is_better)
    ends = (
        _worse_end(cautious, BOTH_SIDES, lower_is_better),
        _worse_end(optimistic, BOTH_SIDES, not lower_is_better),
    )
    return Difference(
        metric=metric,
        original=before,
        candidate=after,
        value=after - before,
        low=min(ends),
        high=max(ends),
        bound=_worse_end(cautious, ONE_SIDE, lower_is_better),
        level=_worse_end(candidate, ONE_SIDE, lower_is_better),
        relative=relative,
        rows=rows,
        method=method,
        lower_is_better=lower_is_better,
    )


def share_difference(metric: str, original: Floats, candidate: Floats) -> Difference:
    """Difference of a share, the mean over rows [n] that are right (1) or wrong (0)."""
    rows = len(original)
    lost = int(((original == 1) & (candidate == 0)).sum())
    gained = int(((original == 0) & (candidate == 1)).sum())
    before, after = float(original.mean()), float(candidate.mean())
    bound = share_difference_bound(lost, gained, rows, ONE_SIDE)
    return Difference(
        metric=metric,
        original=before,
        candidate=after,
        value=(gained - lost) / rows,
        low=share_difference_bound(lost, gained, rows, BOTH_SIDES),
        high=-share_difference_bound(gained, lost, rows, BOTH_SIDES),
        bound=bound,
        level=share_bound(int(candidate.sum()), rows, ONE_SIDE),
        relative=bound / before if before else None,
        rows=rows,
        method=METHOD_EXACT,
        lost=lost,
        gained=gained,
    )


def _worse_end(values: Floats, tail: float, lower_is_better: bool) -> float:
    """Quantile of the draws on the side where the candidate is worse."""
    if lower_is_better:
        return float(np.quantile(values, 1 - tail, method="higher"))
    return float(np.quantile(values, tail, method="lower"))
