"""Comparison of two optimizations with the same command: are the figures reproduced?

    maas optimize digits --gate "accuracy>=-0.01"    # then the command that its report prints
    python -m benchmarks.reproduce JOB JOB           # folders of both jobs

Quality must be equal, because it is deterministic. A ratio must be in the interval of the first
job, which contains 99.9 % of repeats (the figures include this share), so that one of 1,000 is
expected outside. The ratios of one candidate come from the same calls and fall outside together.
The test therefore uses the number of candidates with any ratio outside, which has a probability of
at most 0.1 % times the number of ratios for each candidate. Figures without a ratio depend on other
load of the machine and are counted separately. The exit status is 1 if quality or a size differs,
memory is outside, or more candidates are outside than chance explains.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from math import comb
from pathlib import Path

import msgspec

from maas.lifecycle.optimize.judgment.choose import MEMORY_NOISE
from maas.lifecycle.optimize.publication import FIGURES
from maas.lifecycle.optimize.results import (
    CandidateResult,
    Estimate,
    Measurement,
    Optimization,
    from_json,
)

RATIOS = ("rows_per_s_ratio", "p50_ratio", "p99_ratio", "first_ratio")
LEVELS = ("rows_per_s", "p50_ms", "p99_ms", "first_ms")
CHANCE = 0.01
"""Smallest probability that is attributed to chance."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    options = parser.parse_args()
    first, second = read(options.first), read(options.second)
    repeats = {result.name: result for result in second.results}
    inside = {"ratios": [0, 0], "memory": [0, 0], "sizes": [0, 0], "levels": [0, 0]}
    different: list[str] = []
    outside: list[str] = []
    ratios: list[list[bool]] = []
    for result in first.results[1:]:
        repeat = repeats.get(result.name)
        if result.measurement is None or repeat is None or repeat.measurement is None:
            continue
        if quality(result) != quality(repeat):
            different.append(f"{result.name}: quality differs")
        compared = figures(result.measurement, repeat.measurement)
        ratios.append([is_inside for group, _, is_inside in compared if group == "ratios"])
        for group, text, is_inside in compared:
            inside[group][0] += is_inside
            inside[group][1] += 1
            if not is_inside:
                messages = outside if group in ("ratios", "levels") else different
                messages.append(f"{result.name}: {text}")
    for group, (count_inside, total) in inside.items():
        print(f"{group}: {count_inside} of {total} within the interval of the first job")
    print("\n".join([*outside, *(different or ["quality, sizes and memory are equal"])]))
    print(f"chosen: {first.chosen} and {second.chosen}")
    nominal = share_of_repeats(first)
    count, chance = candidates_outside(ratios, nominal)
    print(
        f"{nominal:.1%} of ratios are expected inside; those of one candidate come from the same "
        f"calls. {count} of {len(ratios)} candidates have any outside; chance of so many: at most "
        f"{chance:.2g}"
    )
    return int(bool(different) or chance < CHANCE)


def share_of_repeats(optimization: Optimization) -> float:
    """Share of repeats that the intervals of an optimization contain."""
    measurements = [r.measurement for r in optimization.results if r.measurement is not None]
    shares = (float(measurement.how.get("repeats", 0.99)) for measurement in measurements)
    return min(shares, default=0.99)


def candidates_outside(ratios: Sequence[Sequence[bool]], nominal: float) -> tuple[int, float]:
    """Number of candidates with a ratio outside, and an upper bound of its probability.

    `ratios`: for each candidate, whether its ratios are inside. `nominal`: share of repeats inside.
    The bound is valid for any dependence between the ratios of a candidate.
    """
    count = sum(not all(inside) for inside in ratios)
    share = min(1.0, (1 - nominal) * max(map(len, ratios), default=0))
    return count, at_least(count, len(ratios), share)


def at_least(outside: int, count: int, share: float) -> float:
    """Probability that at least `outside` of `count` are outside, if each is with `share`."""
    return 1 - sum(comb(count, n) * share**n * (1 - share) ** (count - n) for n in range(outside))


def read(path: Path) -> Optimization:
    """The optimization in a job's folder or in a file of figures."""
    file = path / "work" / FIGURES if path.is_dir() else path
    return from_json(msgspec.json.decode(file.read_bytes()), Optimization)


def quality(result: CandidateResult) -> object:
    return result.comparison and msgspec.to_builtins(result.comparison)


def figures(first: Measurement, second: Measurement) -> list[tuple[str, str, bool]]:
    """(group, text, whether the second value is in the first interval) of each figure."""
    result = [("sizes", "bytes", first.file_bytes == second.file_bytes)]
    memory = Estimate(
        first.resident_ratio,
        first.resident_ratio * (1 - MEMORY_NOISE),
        first.resident_ratio * (1 + MEMORY_NOISE),
    )
    result.append(("memory", "memory", within(second.resident_ratio, memory)))
    pairs = [
        (f"{name} of {speed.batch}", getattr(speed, name), getattr(second.at(speed.batch), name))
        for speed in first.speeds
        for name in RATIOS + LEVELS
    ]
    pairs.append(("work", first.core_seconds_per_1000, second.core_seconds_per_1000))
    for name, here, there in pairs:
        if here is None or there is None:
            continue  # only language models have a time to the first token
        text = f"{name} was {here.low:.4g} to {here.high:.4g}, is {there.value:.4g}"
        group = "ratios" if "_ratio" in name else "levels"
        result.append((group, text, within(there.value, here)))
    return result


def within(value: float, interval: Estimate) -> bool:
    return interval.low <= value <= interval.high


if __name__ == "__main__":
    sys.exit(main())
