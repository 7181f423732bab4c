"""Confidence intervals by the percentile bootstrap (Efron and Tibshirani 1993, chapter 13)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from maas.lifecycle.metrics.metrics import Floats

CONFIDENCE = 0.95
BUDGET = 40_000_000
"""Largest product of rows, resamples and classes; more rows or classes get fewer resamples."""
FEWEST = 100
CHUNK = 2_000_000
"""Largest number of elements in one block of weights: 16 MB."""

Statistic = Callable[[Floats], dict[str, Floats]]
"""Function from weights [b, n] to named values [b] or [b, k]."""


@dataclass(frozen=True)
class Bootstrap:
    """Bounds of the central 95 % of the resamples, by name of the statistic."""

    low: dict[str, Floats]
    """[] or [k]; NaN where the value is undefined in more than a tenth of the resamples"""
    high: dict[str, Floats]
    resamples: int

    def interval(self, name: str, index: int | None = None) -> list[float] | None:
        """[low, high] of a value, or of entry `index` of a value per class."""
        if name not in self.low:
            return None
        low, high = self.low[name], self.high[name]
        if index is not None:
            low, high = low[index], high[index]
        return None if np.isnan(low) else [float(low), float(high)]


def affordable(resamples: int, rows: int, classes: int = 1) -> int:
    """At most `resamples`; fewer for very many rows, so that an evaluation takes seconds."""
    return min(resamples, max(FEWEST, BUDGET // max(1, rows * classes)))


def bootstrap(statistic: Statistic, weights: Floats, *, seed: int, resamples: int) -> Bootstrap:
    """Evaluates the statistic on `resamples` samples of the n rows, drawn with replacement.

    `weights` [n]: weight of each row when it is drawn.
    """
    rows = len(weights)
    if resamples == 0 or rows == 0:
        return Bootstrap({}, {}, 0)
    generator = np.random.default_rng(seed)
    parts: list[dict[str, Floats]] = []
    left = resamples
    while left:
        block = min(left, max(1, CHUNK // rows))
        drawn = generator.integers(0, rows, size=(block, rows))
        drawn += np.arange(block)[:, None] * rows
        times = np.bincount(drawn.ravel(), minlength=block * rows).reshape(block, rows)
        parts.append(statistic(times * weights))
        left -= block
    low, high = {}, {}
    for name in parts[0]:
        low[name], high[name] = _bounds(np.concatenate([part[name] for part in parts]))
    return Bootstrap(low, high, resamples)


def _bounds(values: Floats) -> tuple[Floats, Floats]:
    """Percentiles over the first axis, over the resamples in which the value is defined."""
    tail = (1 - CONFIDENCE) / 2
    undefined = np.isnan(values)
    if not undefined.any():
        low, high = np.quantile(values, [tail, 1 - tail], axis=0)
        return low, high
    columns = values.reshape(len(values), -1)
    bounds = np.full((2, columns.shape[1]), np.nan)
    for index in range(columns.shape[1]):
        defined = columns[~np.isnan(columns[:, index]), index]
        if len(defined) >= 0.9 * len(values):
            bounds[:, index] = np.quantile(defined, [tail, 1 - tail])
    low, high = bounds.reshape(2, *values.shape[1:])
    return low, high
