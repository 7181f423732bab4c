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

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from maas.lifecycle.metrics.metrics import Floats

NODES, LENGTHS = np.polynomial.legendre.leggauss(128)
CLOSE = 1e-9
NEAR = 1e-6
"""Of a probability: a bound whose chance is so little below its tail is found."""
MOST_COUNTED = 2000
"""Rows that moved, beyond which the normal distribution is near enough to guess with."""
MOST_ROWS = 10_000_000


@lru_cache(maxsize=8192)
def share_difference_bound(lost: int, gained: int, rows: int, tail: float) -> float:
    """A value that the true (gained − lost) / rows is below with probability `tail` at most.

    `lost` and `gained` are counts among `rows`. Its mirror, an upper bound, is
    `-share_difference_bound(gained, lost, rows, tail)`.
    """
    high = (gained - lost) / rows
    reach = 4 * math.sqrt((lost + gained) / rows / rows) + 8 / rows
    low = max(-1.0, high - reach)
    below = chance_below(lost, gained, rows, low) - tail
    if below > 0:
        low, below = -1.0, -tail
    above = chance_below(lost, gained, rows, high) - tail
    # Regula falsi with the step of Illinois: the end that stays loses half its weight.
    while high - low > CLOSE:
        middle = low - below * (high - low) / (above - below)
        middle = min(max(middle, low + CLOSE / 4), high - CLOSE / 4)
        found = chance_below(lost, gained, rows, middle) - tail
        if -NEAR < found <= 0:
            return middle
        if found <= 0:
            low, below, above = middle, found, above / 2
        else:
            high, above, below = middle, found, below / 2
    return low


def share_loss_p(lost: int, gained: int, rows: int, allowed: float) -> float:
    """How likely a loss like this would be, at most, if no more than `allowed` were lost.

    One-sided, with a row added that was gained.
    """
    return chance_below(gained, lost, rows, allowed)


@lru_cache(maxsize=65536)
def chance_below(lost: int, gained: int, rows: int, threshold: float) -> float:
    """The share of the Dirichlet weights that bring the mean of `lost` + 1 times −1, `gained` times
    1 and else 0 to `threshold` or below it.

    The weights of lost and gained rows together are s ~ Beta(lost + gained + 1, rows − lost −
    gained), and of these the lost ones have r ~ Beta(lost + 1, gained), so that the mean is
    s (1 − 2 r). The integral over s is by Gauss and Legendre.
    """
    moved, same = lost + gained, rows - lost - gained
    if same == 0:
        s, weight = np.ones(1), np.ones(1)
    else:
        center = (moved + 1) / (rows + 1)
        spread = math.sqrt(center * (1 - center) / (rows + 2))
        start, end = max(0.0, center - 10 * spread), min(1.0, center + 25 * spread)
        s = start + (end - start) * (NODES + 1) / 2
        density = moved * np.log(s) + (same - 1) * np.log1p(-s)
        weight = LENGTHS * np.exp(density - density.max())
        weight /= weight.sum()
    if gained == 0:
        above = (s >= -threshold) * 1.0
        return float(_share_at_least(-threshold, rows, lost) if same else above @ weight)
    x = np.clip((1 - threshold / s) / 2, 0.0, 1.0)
    return float(weight @ _binomial_cdf(lost, moved, x))


def _share_at_least(share: float, rows: int, lost: int) -> float:
    """P(s ≥ share) for s ~ Beta(lost + 1, rows − lost)."""
    return float(_binomial_cdf(lost, rows, np.clip([share], 0.0, 1.0))[0])


def _binomial_cdf(most: int, trials: int, x: Floats) -> Floats:
    """P(at most `most` of `trials`) for chances `x`, by the shorter of the two sums."""
    upper = most > trials // 2
    steps = np.arange(most + 1, trials + 1) if upper else np.arange(most + 1)
    logs = _log_factorials(trials)
    choices = logs[trials] - logs[steps] - logs[trials - steps]
    with np.errstate(divide="ignore", invalid="ignore"):
        up = np.where(steps == 0, 0.0, steps * np.log(x)[:, None])
        down = np.where(steps == trials, 0.0, (trials - steps) * np.log1p(-x)[:, None])
    total = np.exp(choices + up + down).sum(axis=1)
    found: Floats = np.clip(1 - total if upper else total, 0.0, 1.0)
    return found


@lru_cache(maxsize=64)
def _log_factorials(most: int) -> Floats:
    found: Floats = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])
    return found


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
        down, up = round(lost * many / rows), round(gained * many / rows)
        if down + up <= MOST_COUNTED:
            return chance_below(down, up, many, threshold) <= tail
        reach = NormalDist().inv_cdf(1 - tail) * math.sqrt(down + up)
        return (up - down - reach) / many >= threshold

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
    return min(1.0, 2 * float(_binomial_cdf(min(lost, gained), both, np.array([0.5]))[0]))


def holm(p_values: list[float], error: float) -> list[bool]:
    """Which of many hypotheses fall so that the chance to wrong any one is `error` (Holm 1979)."""
    fallen = [False] * len(p_values)
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] > error / (len(p_values) - place):
            break
        fallen[index] = True
    return fallen
