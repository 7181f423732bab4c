"""Wider intervals for a report, so that a repeat of its command reproduces every figure.

An interval of 99 % of repeats is right for judging and choosing by one figure (`paired_runs.py`).
Of the hundreds of figures of a report, some would fall outside. The intervals here contain 99.9 %
of repeats, and none is narrower than that of the same figure of the median candidate: the spread
of eight runs is sometimes small by chance, and among hundreds there is always such a case. They are
about 1.5 times as wide with eight runs and twice as wide with four. Two runs hardly bound anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from statistics import median
from typing import Any

from maas.lifecycle.optimize.results import Estimate, Measurement, Optimization, Speed
from maas.lifecycle.optimize.student_t import t_quantile

REPEATS = 0.999
"""Share of the repeats of a figure that fall into its interval."""
HOW: Mapping[str, Any] = {
    "interval": "median of the runs, with the range of 99.9 % of repeats by Student's t, and at "
    "least the spread of the median candidate; gate and choice use the range of 99 %",
    "repeats": REPEATS,
}
_LARGEST_REACH = 50.0
"""Limit on the logarithmic scale, for two runs that differ very much."""
_WORK = "core_seconds_per_1000"
FigureKey = tuple[int, str]
"""Load size and name of a figure."""


def with_report_intervals(optimization: Optimization) -> Optimization:
    """The same optimization with wider intervals for everything measured in paired runs."""
    measurements = [r.measurement for r in optimization.results if r.measurement is not None]
    least = _median_reaches(measurements)
    results = []
    for result in optimization.results:
        if result.measurement is not None:
            result = replace(result, measurement=_widened(result.measurement, least))
        results.append(result)
    return replace(optimization, results=tuple(results))


def _widened(measurement: Measurement, least: dict[FigureKey, float]) -> Measurement:
    degrees = int(measurement.how["runs"]) - 1
    factor = t_quantile(0.9995, degrees) / t_quantile(0.995, degrees)

    def wider(estimate: Estimate, key: FigureKey) -> Estimate:
        reach = min(_LARGEST_REACH, factor * max(_reach(estimate), least[key]))
        ratio = math.exp(reach)
        return Estimate(estimate.value, estimate.value / ratio, estimate.value * ratio)

    def wider_speed(speed: Speed) -> Speed:
        changes: dict[str, Any] = {}
        for name, estimate in _estimates(speed):
            changes[name] = wider(estimate, (speed.batch, name))
        return replace(speed, **changes)

    return replace(
        measurement,
        speeds=tuple(wider_speed(speed) for speed in measurement.speeds),
        core_seconds_per_1000=wider(measurement.core_seconds_per_1000, (0, _WORK)),
        how={**measurement.how, **HOW},
    )


def _median_reaches(measurements: Iterable[Measurement]) -> dict[FigureKey, float]:
    """Median over all candidates of the reach of each figure."""
    reaches: dict[FigureKey, list[float]] = {}
    for measurement in measurements:
        for key, estimate in _figures(measurement):
            reaches.setdefault(key, []).append(_reach(estimate))
    return {key: median(values) for key, values in reaches.items()}


def _figures(measurement: Measurement) -> Iterator[tuple[FigureKey, Estimate]]:
    for speed in measurement.speeds:
        for name, estimate in _estimates(speed):
            yield (speed.batch, name), estimate
    yield (0, _WORK), measurement.core_seconds_per_1000


def _estimates(speed: Speed) -> Iterator[tuple[str, Estimate]]:
    for field in fields(speed):
        value = getattr(speed, field.name)
        if isinstance(value, Estimate):
            yield field.name, value


def _reach(estimate: Estimate) -> float:
    """Distance from the middle of the interval to its ends, on the logarithmic scale."""
    return math.log(estimate.high / estimate.low) / 2
