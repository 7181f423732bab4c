"""Intervals of a report: who runs its command again shall find every figure within its own.

To judge and to choose, it is enough to be 99 % sure of one figure (`runs.py`). Of hundreds,
some would then fall outside. Here they hold 99.9 % of repeats, and none is narrower than that of
the same figure of the median candidate: the spread of eight runs is sometimes small by luck,
and of hundreds there is always one such. That makes them half as wide again with eight runs and
twice as wide with four; two say next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from statistics import median
from typing import Any

from maas.lifecycle.optimize.measurement.paired_runs import T_995
from maas.lifecycle.optimize.results import Estimate, Measurement, Optimization, Speed

T_9995 = (
    636.619, 31.599, 12.924, 8.610, 6.869, 5.959, 5.408, 5.041, 4.781, 4.587,
    4.437, 4.318, 4.221, 4.140, 4.073, 4.015, 3.965, 3.922, 3.883, 3.850,
)  # fmt: skip
"""99.95 % quantiles of Student's t distribution for 1, 2, … degrees of freedom."""
REPEATS = 0.999
"""Share of the repeats of one figure that fall into its interval."""
HOW: Mapping[str, Any] = {
    "interval": "median of runs, and where 99.9 % of repeats fall by Student's t, with the "
    "spread of the median candidate at least; what is judged and chosen rests on 99 %",
    "repeats": REPEATS,
}
_WIDEST = 50.0
"""Of a logarithm: two runs say next to nothing."""
_WORK = "core_seconds_per_1000"
Key = tuple[int, str]
"""Which figure: of which size of load, and its name."""


def with_report_intervals(found: Optimization) -> Optimization:
    """The same, with wider intervals of all that was measured in runs."""
    measured = [one.measurement for one in found.results if one.measurement is not None]
    least = _medians(figure for one in measured for figure in _figures(one))
    tried = tuple(
        one
        if one.measurement is None
        else replace(one, measurement=_widened(one.measurement, least))
        for one in found.results
    )
    return replace(found, results=tried)


def _widened(measurement: Measurement, least: dict[Key, float]) -> Measurement:
    runs = int(measurement.how["runs"])
    degrees = min(runs - 1, len(T_995)) - 1
    factor = T_9995[degrees] / T_995[degrees]

    def wider(found: Estimate, key: Key) -> Estimate:
        reach = min(_WIDEST, factor * max(_reach(found), least[key]))
        share = math.exp(reach)
        return Estimate(found.value, found.value / share, found.value * share)

    def of(speed: Speed) -> Speed:
        changed: dict[str, Any] = {
            name: wider(found, (speed.batch, name)) for name, found in _estimates(speed)
        }
        return replace(speed, **changed)

    return replace(
        measurement,
        speeds=tuple(of(speed) for speed in measurement.speeds),
        core_seconds_per_1000=wider(measurement.core_seconds_per_1000, (0, _WORK)),
        how={**measurement.how, **HOW},
    )


def _medians(figures: Iterable[tuple[Key, Estimate]]) -> dict[Key, float]:
    reaches: dict[Key, list[float]] = {}
    for key, found in figures:
        reaches.setdefault(key, []).append(_reach(found))
    return {key: median(of) for key, of in reaches.items()}


def _figures(measurement: Measurement) -> Iterator[tuple[Key, Estimate]]:
    for speed in measurement.speeds:
        for name, found in _estimates(speed):
            yield (speed.batch, name), found
    yield (0, _WORK), measurement.core_seconds_per_1000


def _estimates(speed: Speed) -> list[tuple[str, Estimate]]:
    known = [(one.name, getattr(speed, one.name)) for one in fields(speed)]
    return [(name, found) for name, found in known if isinstance(found, Estimate)]


def _reach(found: Estimate) -> float:
    """How far the interval goes to each side, in logarithms."""
    return math.log(found.high / found.low) / 2
