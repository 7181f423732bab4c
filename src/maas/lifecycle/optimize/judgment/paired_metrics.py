"""Metrics of two models on the same rows, their differences, and how sure these are.

Rows get weights from the flat Dirichlet distribution (the Bayesian bootstrap, Rubin 1981), the same
for both models, together with one row that was not seen: on the cautious side one that the
candidate loses, on the other one that it wins. `bounds.py` says why.
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
"""From weights [b, n + 2] to metrics [b] or [b, classes]."""

WORSE_WITHOUT_LIMIT = {"perplexity"} | LOWER_IS_BETTER
ONE_SIDE = 1 - CONFIDENCE
BOTH_SIDES = ONE_SIDE / 2
CHUNK = 2_000_000
BUDGET = 100_000_000
FEWEST = 400

EXACT = "Dirichlet weights with one unseen row that is lost (Gaffke 2005), of counts"
DRAWN = "Dirichlet weights with one unseen row that is lost (Rubin 1981, Gaffke 2005), drawn"
WORST_SEEN = "Dirichlet weights with the worst seen row once more (Rubin 1981), drawn"


@dataclass(frozen=True)
class Pair:
    """The same metrics of original and candidate.

    Both take weights [b, n + 2]: of n rows, of one more that the candidate loses, and of one more
    that it wins.
    """

    original: Statistic
    candidate: Statistic
    rows: int
    method: str = DRAWN


@dataclass(frozen=True)
class MetricDraws:
    """One metric: values [] or [classes], and draws [b] or [b, classes]."""

    original: Floats
    candidate: Floats
    cautious_original: Floats
    cautious_candidate: Floats
    hopeful: Floats
    """Differences."""


def affordable(resamples: int, rows: int, classes: int) -> int:
    """At most `resamples`, fewer where rows and classes are very many."""
    return min(resamples, max(FEWEST, BUDGET // max(1, rows * classes)))


def spread(pair: Pair, seed: int, resamples: int) -> dict[str, MetricDraws]:
    """Every metric that both models have."""
    drawn = np.random.default_rng(seed)
    seen = np.concatenate([np.ones(pair.rows), np.zeros(2)])[None, :]
    points = pair.original(seen), pair.candidate(seen)
    names = [name for name in points[0] if name in points[1]]
    found: dict[str, list[tuple[Floats, Floats, Floats]]] = {name: [] for name in names}
    left = resamples
    while left:
        block = min(left, max(1, CHUNK // (pair.rows + 2)))
        weights = drawn.standard_exponential((block, pair.rows + 2))
        cautious, hopeful = weights, weights.copy()
        cautious[:, -1] = 0
        hopeful[:, -2] = 0
        a, b = pair.original(cautious), pair.candidate(cautious)
        c, d = pair.original(hopeful), pair.candidate(hopeful)
        for name in names:
            found[name].append((a[name], b[name], d[name] - c[name]))
        left -= block
    return {
        name: MetricDraws(
            points[0][name][0],
            points[1][name][0],
            *(np.concatenate([part[i] for part in parts]) for i in range(3)),
        )
        for name, parts in found.items()
    }


def difference_of(
    metric: str, found: MetricDraws, rows: int, method: str, index: int | None = None
) -> Difference | None:
    """The difference with its bounds, of class `index` if there is one; None if it is undefined
    for one of the models or in more than a tenth of the draws."""
    at = ... if index is None else (..., index)
    before, after = float(found.original[at]), float(found.candidate[at])
    original, candidate = found.cautious_original[at], found.cautious_candidate[at]
    hopeful = found.hopeful[at]
    known = ~(np.isnan(original) | np.isnan(candidate))
    sure = ~np.isnan(hopeful)
    if np.isnan(before) or np.isnan(after) or min(known.mean(), sure.mean()) < 0.9:
        return None
    original, candidate, hopeful = original[known], candidate[known], hopeful[sure]
    lower = metric in WORSE_WITHOUT_LIMIT
    cautious = candidate - original
    ratio = None if (original <= 0).any() else _worse(cautious / original, ONE_SIDE, lower)
    ends = (_worse(cautious, BOTH_SIDES, lower), _worse(hopeful, BOTH_SIDES, not lower))
    return Difference(
        metric=metric,
        original=before,
        candidate=after,
        value=after - before,
        low=min(ends),
        high=max(ends),
        bound=_worse(cautious, ONE_SIDE, lower),
        level=_worse(candidate, ONE_SIDE, lower),
        relative=ratio,
        rows=rows,
        method=method,
        lower_is_better=lower,
    )


def share_difference(metric: str, original: Floats, candidate: Floats) -> Difference:
    """Of a share that is the mean of rows [n] that are right (1) or not (0)."""
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
        method=EXACT,
        lost=lost,
        gained=gained,
    )


def _worse(values: Floats, tail: float, lower_is_better: bool) -> float:
    """The end of the draws where the candidate is worse."""
    if lower_is_better:
        return float(np.quantile(values, 1 - tail, method="higher"))
    return float(np.quantile(values, tail, method="lower"))
