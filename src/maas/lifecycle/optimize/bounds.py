"""Bounds for means of bounded differences between two models on the same rows.

A bootstrap only ever draws what it has seen: with no row lost in 50 its bound is 0, although one
row in 17 may be lost on average without this being rare. So it lets through too much, just where a
gate matters. The bounds here add one row that was never seen and is as bad as a row can be, and
give the rows weights from the flat Dirichlet distribution: the one-sided bound of Gaffke (2005),
as Learned-Miller and Thomas (2019, "A new confidence interval for the mean of a bounded random
variable", arXiv:1905.06208) write it. For a plain share it is exactly the bound of Clopper and
Pearson (1934). That it holds for every distribution is a conjecture; for paired shares, that is
rows lost, gained and unchanged, the tests compute its error exactly and find it below 5 %.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from maas.lifecycle.metrics import Floats

DRAWS = 100_000
MOST_ROWS = 10_000_000


@lru_cache(maxsize=4096)
def share_difference_bound(lost: int, gained: int, rows: int, tail: float) -> float:
    """A value that the true (gained − lost) / rows is below with probability `tail` at most.

    `lost` and `gained` are counts among `rows`. Its mirror, an upper bound, is
    `-share_difference_bound(gained, lost, rows, tail)`.
    """
    return float(np.quantile(_means(lost + 1, gained, rows - lost - gained), tail, method="lower"))


@lru_cache(maxsize=4096)
def share_loss_p(lost: int, gained: int, rows: int, allowed: float) -> float:
    """How likely a loss like this would be, at most, if no more than `allowed` were lost.

    One-sided; the smallest value is one over the number of draws.
    """
    means = _means(lost, gained + 1, rows - lost - gained)
    return float((np.count_nonzero(means >= -allowed) + 1) / (DRAWS + 1))


def share_bound(right: int, rows: int, tail: float) -> float:
    """Lower bound of a share of `right` among `rows` (Clopper and Pearson 1934)."""
    return 1 + share_difference_bound(rows - right, 0, rows, tail)


def mean_bounds(values: Floats, tail: float, seed: int) -> tuple[float, float]:
    """Lower and upper bound, each with `tail`, of the mean of `values` [n] in [0, 1]."""
    drawn = np.random.default_rng(seed)
    low, high = [], []
    for _ in range(10):
        weights = drawn.standard_exponential((200, len(values) + 1))
        sums = weights.sum(axis=1)
        seen = weights[:, :-1] @ values
        low.append(seen / sums)
        high.append((seen + weights[:, -1]) / sums)
    return (
        float(np.quantile(np.concatenate(low), tail, method="lower")),
        float(np.quantile(np.concatenate(high), 1 - tail, method="higher")),
    )


def rows_to_show(lost: int, gained: int, rows: int, threshold: float, tail: float) -> int | None:
    """About how many rows, with losses and gains in the same shares, bring the bound of the
    difference to `threshold`; None if no number does."""
    if (gained - lost) / rows <= threshold:
        return None

    def shown(many: int) -> bool:
        scaled = round(lost * many / rows), round(gained * many / rows)
        return share_difference_bound(*scaled, many, tail) >= threshold

    high = rows
    while not shown(high):
        high *= 2
        if high > MOST_ROWS:
            return None
    low = high // 2
    while high - low > max(1, high // 50):
        middle = (low + high) // 2
        low, high = (low, middle) if shown(middle) else (middle, high)
    return high


def mcnemar_p(lost: int, gained: int) -> float:
    """McNemar's test in its exact, two-sided form (McNemar 1947): the binomial distribution with
    one half of the rows on which exactly one of two models is right."""
    both = lost + gained
    if both == 0:
        return 1.0
    steps = np.arange(1, both + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(steps[::-1]) - np.log(steps))])
    tail = np.exp(logs[: min(lost, gained) + 1] - both * np.log(2)).sum()
    return float(min(1.0, 2 * tail))


def holm(p_values: list[float], error: float) -> list[bool]:
    """Which of many hypotheses fall so that the chance to wrong any one is `error` (Holm 1979)."""
    fallen = [False] * len(p_values)
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] > error / (len(p_values) - place):
            break
        fallen[index] = True
    return fallen


def _means(lost: int, gained: int, same: int) -> Floats:
    """Draws of the mean of −1, 1 and 0 under Dirichlet weights with these counts."""
    drawn = np.random.default_rng(20_051_979)
    down, up, none = (drawn.standard_gamma(float(k), DRAWS) for k in (lost, gained, same))
    means: Floats = (up - down) / (up + down + none)
    return means
