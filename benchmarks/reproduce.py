"""Whether an optimization's figures come out again: two reports of the same command, side by side.

    maas optimize digits --gate "accuracy>=-0.01" -o json > first.json     # then once more
    python -m benchmarks.reproduce JOB JOB                                 # folders of both jobs

Quality must be equal, for nothing in it is left to chance. A ratio must lie in the other run's
interval, which is made to hold 99 % of such repeats. Milliseconds and rows/s without a ratio depend
on what else the machine did, and are counted apart. Exit status 1 if a ratio is outside or quality
differs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from maas.lifecycle.optimize.choose import MEMORY_NOISE
from maas.lifecycle.optimize.publication import FIGURES
from maas.lifecycle.optimize.words import Estimate, Measurement, Optimization, Tried, from_json

RATIOS = ("rows_per_s_ratio", "p50_ratio", "p99_ratio")
LEVELS = ("rows_per_s", "p50_ms", "p99_ms")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    told = parser.parse_args()
    first, second = (read(path) for path in (told.first, told.second))
    again = {tried.name: tried for tried in second.tried}
    inside = {"ratios": [0, 0], "memory": [0, 0], "sizes": [0, 0], "levels": [0, 0]}
    different: list[str] = []
    for tried in first.tried[1:]:
        other = again.get(tried.name)
        if tried.measurement is None or other is None or other.measurement is None:
            continue
        if quality(tried) != quality(other):
            different.append(f"{tried.name}: quality differs")
        for kind, name, held in figures(tried.measurement, other.measurement):
            inside[kind][0] += held
            inside[kind][1] += 1
            if not held and kind != "levels":
                different.append(f"{tried.name}: {name}")
    for kind, (held, count) in inside.items():
        print(f"{kind}: {held} of {count} within the interval of the first run")
    print("\n".join(different) or "quality is equal")
    print(f"chosen: {first.chosen} and {second.chosen}")
    return int(bool(different))


def read(path: Path) -> Optimization:
    """A job's folder, or the file with the figures."""
    file = path / "work" / FIGURES if path.is_dir() else path
    return from_json(msgspec.json.decode(file.read_bytes()), Optimization)


def quality(tried: Tried) -> object:
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
    for speed in first.speeds:
        other = second.at(speed.batch)
        for kind, names in (("ratios", RATIOS), ("levels", LEVELS)):
            for name in names:
                here: Estimate = getattr(speed, name)
                there: Estimate = getattr(other, name)
                text = (
                    f"{name} of {speed.batch} rows was {here.low:.3f} to {here.high:.3f}, "
                    f"is {there.value:.3f}"
                )
                found.append((kind, text, within(there.value, here)))
    return found


def within(value: float, interval: Estimate) -> bool:
    return interval.low <= value <= interval.high


if __name__ == "__main__":
    sys.exit(main())
