"""Medians, ranges and bootstrap intervals of a few rounds."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

Round = TypeVar("Round", int, tuple[str, int])
"""The number of a round, or the start of a run and a number."""


@dataclass(frozen=True)
class Spread:
    """Median of some values with their range or an interval."""

    median: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def spread(values: Sequence[float]) -> Spread | None:
    """Median with minimum and maximum; None without values."""
    if not values:
        return None
    return Spread(statistics.median(values), min(values), max(values), len(values))


def ratio(ours: Mapping[Round, float], theirs: Mapping[Round, float]) -> Spread | None:
    """Median of per-round ratios ours/theirs with a 95 % percentile bootstrap interval.

    Keys are rounds: only values of the same round are compared, because the speed of the
    machine changes between rounds. With few rounds the interval is close to the range.
    """
    pairs = [ours[r] / theirs[r] for r in sorted(ours.keys() & theirs.keys()) if theirs[r] > 0]
    if not pairs:
        return None
    rng = random.Random(1)
    medians = sorted(statistics.median(rng.choices(pairs, k=len(pairs))) for _ in range(10_000))
    return Spread(statistics.median(pairs), medians[250], medians[9749], len(pairs))
