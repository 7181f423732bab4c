"""Bounds for means of bounded differences between two models on the same rows.

A bootstrap draws only rows that were seen: with no row lost in 50 its bound is 0, although a true
loss of one row in 17 looks like that in 5 % of all samples. It accepts too much exactly where a
gate matters. The bounds here add one row that was not seen and is as bad as a row can be, and give
the rows weights from the flat Dirichlet distribution: the one-sided bound of Gaffke (2005), in the
form of Learned-Miller and Thomas (2019, "A new confidence interval for the mean of a bounded random
variable", arXiv:1905.06208). For a plain share it equals the bound of Clopper and Pearson (1934).
That it is valid for every distribution is a conjecture. For paired shares, that is, for rows lost,
gained and unchanged, the tests compute its error exactly and find it below 5 %.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from maas.lifecycle.metrics.metrics import Floats

NODES, LENGTHS = np.polynomial.legendre.leggauss(128)
THRESHOLD_TOLERANCE = 1e-9
PROBABILITY_TOLERANCE = 1e-6
"""The search for a bound stops when its probability is this little below the tail."""
MOST_COUNTED = 2000
"""Changed rows beyond which the normal approximation is used for estimates."""
MOST_ROWS = 10_000_000


@lru_cache(maxsize=8192)
def share_difference_bound(lost: int, gained: int, rows: int, tail: float) -> float:
    """Lower bound of the true (gained − lost) / rows, wrong with probability `tail` at most.

    `lost` and `gained` are counts among `rows`. The upper bound is
    `-share_difference_bound(gained, lost, rows, tail)`.
    """
    high = (gained - lost) / rows
    reach = 4 * math.sqrt((lost + gained) / rows / rows) + 8 / rows
    low = max(-1.0, high - reach)
    below = probability_below(lost, gained, rows, low) - tail
    if below > 0:
        low, below = -1.0, -tail
    above = probability_below(lost, gained, rows, high) - tail
    # Regula falsi, Illinois variant: the weight of the end that stays is halved.
    while high - low > THRESHOLD_TOLERANCE:
        middle = low - below * (high - low) / (above - below)
        middle = min(max(middle, low + THRESHOLD_TOLERANCE / 4), high - THRESHOLD_TOLERANCE / 4)
        excess = probability_below(lost, gained, rows, middle) - tail
        if -PROBABILITY_TOLERANCE < excess <= 0:
            return middle
        if excess <= 0:
            low, below, above = middle, excess, above / 2
        else:
            high, above, below = middle, excess, below / 2
    return low


def share_loss_p(lost: int, gained: int, rows: int, allowed: float) -> float:
    """Largest probability of such a loss if the true share lost is at most `allowed`.

    One-sided, with one gained row added.
    """
    return probability_below(gained, lost, rows, allowed)


@lru_cache(maxsize=65536)
def probability_below(lost: int, gained: int, rows: int, threshold: float) -> float:
    """Probability that the weighted mean is at most `threshold`, over all Dirichlet weights.

    The mean is over `lost` + 1 values of −1, `gained` values of 1, and 0 for all other rows.

    The weights of lost and gained rows together are s ~ Beta(lost + gained + 1, rows − lost −
    gained). The lost ones have the share r ~ Beta(lost + 1, gained) of them, so that the mean is
    s (1 − 2 r). The integral over s is computed by Gauss–Legendre quadrature.
    """
    changed, same = lost + gained, rows - lost - gained
    if same == 0:
        s, weight = np.ones(1), np.ones(1)
    else:
        center = (changed + 1) / (rows + 1)
        spread = math.sqrt(center * (1 - center) / (rows + 2))
        start, end = max(0.0, center - 10 * spread), min(1.0, center + 25 * spread)
        s = start + (end - start) * (NODES + 1) / 2
        density = changed * np.log(s) + (same - 1) * np.log1p(-s)
        weight = LENGTHS * np.exp(density - density.max())
        weight /= weight.sum()
    if gained == 0:
        above = (s >= -threshold) * 1.0
        return float(_share_at_least(-threshold, rows, lost) if same else above @ weight)
    x = np.clip((1 - threshold / s) / 2, 0.0, 1.0)
    return float(weight @ _binomial_cdf(lost, changed, x))


def _share_at_least(share: float, rows: int, lost: int) -> float:
    """P(s ≥ share) for s ~ Beta(lost + 1, rows − lost)."""
    return float(_binomial_cdf(lost, rows, np.clip([share], 0.0, 1.0))[0])


def _binomial_cdf(most: int, trials: int, x: Floats) -> Floats:
    """P(at most `most` of `trials`) for probabilities `x`, by the shorter of the two sums."""
    upper = most > trials // 2
    steps = np.arange(most + 1, trials + 1) if upper else np.arange(most + 1)
    logs = _log_factorials(trials)
    choices = logs[trials] - logs[steps] - logs[trials - steps]
    with np.errstate(divide="ignore", invalid="ignore"):
        up = np.where(steps == 0, 0.0, steps * np.log(x)[:, None])
        down = np.where(steps == trials, 0.0, (trials - steps) * np.log1p(-x)[:, None])
    total = np.exp(choices + up + down).sum(axis=1)
    probabilities: Floats = np.clip(1 - total if upper else total, 0.0, 1.0)
    return probabilities


@lru_cache(maxsize=64)
def _log_factorials(most: int) -> Floats:
    logs: Floats = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])
    return logs


def share_bound(right: int, rows: int, tail: float) -> float:
    """Lower bound of a share of `right` among `rows` (Clopper and Pearson 1934)."""
    return 1 + share_difference_bound(rows - right, 0, rows, tail)


def mean_bounds(values: Floats, tail: float, seed: int) -> tuple[float, float]:
    """Lower and upper bound of the mean of `values` [n] in [0, 1], each wrong with `tail`."""
    random = np.random.default_rng(seed)
    low, high = [], []
    for _ in range(10):
        weights = random.standard_exponential((200, len(values) + 1))
        sums = weights.sum(axis=1)
        seen = weights[:, :-1] @ values
        low.append(seen / sums)
        high.append((seen + weights[:, -1]) / sums)
    return (
        float(np.quantile(np.concatenate(low), tail, method="lower")),
        float(np.quantile(np.concatenate(high), 1 - tail, method="higher")),
    )


def rows_to_show(lost: int, gained: int, rows: int, threshold: float, tail: float) -> int | None:
    """Approximate number of rows at which the bound of the difference reaches `threshold`.

    Assumes the same shares of lost and gained rows. None if no number of rows is enough.
    """
    if (gained - lost) / rows <= threshold:
        return None

    def is_enough(count: int) -> bool:
        down, up = round(lost * count / rows), round(gained * count / rows)
        if down + up <= MOST_COUNTED:
            return probability_below(down, up, count, threshold) <= tail
        reach = NormalDist().inv_cdf(1 - tail) * math.sqrt(down + up)
        return (up - down - reach) / count >= threshold

    high = rows
    while not is_enough(high):
        high *= 2
        if high > MOST_ROWS:
            return None
    low = high // 2
    while high - low > max(1, high // 50):
        middle = (low + high) // 2
        if is_enough(middle):
            high = middle
        else:
            low = middle
    return high


def mcnemar_p(lost: int, gained: int) -> float:
    """p-value of McNemar's exact two-sided test (McNemar 1947).

    It uses the binomial distribution with probability 0.5 of the rows on which exactly one of the
    two models is right.
    """
    changed = lost + gained
    if changed == 0:
        return 1.0
    return min(1.0, 2 * float(_binomial_cdf(min(lost, gained), changed, np.array([0.5]))[0]))


def holm(p_values: list[float], error: float) -> list[bool]:
    """Whether each hypothesis is rejected, with family-wise error `error` (Holm 1979)."""
    rejected = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] > error / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected
