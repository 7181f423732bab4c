"""Whether an optimization's figures come out again: two jobs of the same command, side by side.

    maas optimize digits --gate "accuracy>=-0.01"    # then the command that its report prints
    python -m benchmarks.reproduce JOB JOB           # folders of both jobs

Quality must be equal, for nothing in it is left to chance. A ratio must lie in the other run's
interval, which is made to hold 99.9 % of such repeats (the figures say of how many), so that of
1,000 one is expected outside. The ratios of one candidate come from the same calls and fall outside
together. So what is held against chance is how many candidates have any outside; each has with at
most 0.1 % times its ratios.
Figures without a ratio depend on what else the machine did, and are counted apart. Exit status 1 if
quality or a size differs, memory is outside, or more candidates are outside than chance explains.
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
"""Rarer numbers of candidates outside are not put down to chance."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    told = parser.parse_args()
    first, second = (read(path) for path in (told.first, told.second))
    again = {tried.name: tried for tried in second.results}
    inside = {"ratios": [0, 0], "memory": [0, 0], "sizes": [0, 0], "levels": [0, 0]}
    different: list[str] = []
    outside: list[str] = []
    ratios: list[list[bool]] = []
    for tried in first.results[1:]:
        other = again.get(tried.name)
        if tried.measurement is None or other is None or other.measurement is None:
            continue
        if quality(tried) != quality(other):
            different.append(f"{tried.name}: quality differs")
        found = figures(tried.measurement, other.measurement)
        ratios.append([one[2] for one in found if one[0] == "ratios"])
        for kind, name, held in found:
            inside[kind][0] += held
            inside[kind][1] += 1
            if not held:
                (outside if kind in ("ratios", "levels") else different).append(
                    f"{tried.name}: {name}"
                )
    for kind, (within_it, of) in inside.items():
        print(f"{kind}: {within_it} of {of} within the interval of the first run")
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


def share_of_repeats(found: Optimization) -> float:
    """For which its intervals are made."""
    measured = [tried.measurement for tried in found.results if tried.measurement is not None]
    return min((float(one.how.get("repeats", 0.99)) for one in measured), default=0.99)


def candidates_outside(ratios: Sequence[Sequence[bool]], nominal: float) -> tuple[int, float]:
    """How many candidates have a ratio outside, of whether each one's ratios are inside; and a
    bound of the chance of so many, however much the ratios of one depend on each other. `nominal`:
    the share of repeats that fall inside."""
    count = sum(not all(held) for held in ratios)
    share = min(1.0, (1 - nominal) * max(map(len, ratios), default=0))
    return count, at_least(count, len(ratios), share)


def at_least(outside: int, count: int, share: float) -> float:
    """The chance that so many or more of `count` fall outside, if each does with `share`."""
    return 1 - sum(comb(count, n) * share**n * (1 - share) ** (count - n) for n in range(outside))


def read(path: Path) -> Optimization:
    """A job's folder, or the file with the figures."""
    file = path / "work" / FIGURES if path.is_dir() else path
    return from_json(msgspec.json.decode(file.read_bytes()), Optimization)


def quality(tried: CandidateResult) -> object:
    return tried.comparison and msgspec.to_builtins(tried.comparison)


def figures(first: Measurement, second: Measurement) -> list[tuple[str, str, bool]]:
    """(kind, what, whether the second run's value is in the first one's interval)"""
    found = [("sizes", "bytes", first.file_bytes == second.file_bytes)]
    memory = Estimate(
        first.resident_ratio,
        first.resident_ratio * (1 - MEMORY_NOISE),
        first.resident_ratio * (1 + MEMORY_NOISE),
    )
    found.append(("memory", "memory", within(second.resident_ratio, memory)))
    pairs = [
        (f"{name} of {speed.batch}", getattr(speed, name), getattr(second.at(speed.batch), name))
        for speed in first.speeds
        for name in RATIOS + LEVELS
    ]
    pairs.append(("work", first.core_seconds_per_1000, second.core_seconds_per_1000))
    for name, here, there in pairs:
        if here is None or there is None:
            continue  # times to a first token are of text only
        text = f"{name} was {here.low:.4g} to {here.high:.4g}, is {there.value:.4g}"
        kind = "ratios" if "_ratio" in name else "levels"
        found.append((kind, text, within(there.value, here)))
    return found


def within(value: float, interval: Estimate) -> bool:
    return interval.low <= value <= interval.high


if __name__ == "__main__":
    sys.exit(main())
