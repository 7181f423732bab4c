"""Choose: the best for an objective among those that passed the gate."""

from __future__ import annotations

from collections.abc import Sequence

from maas.domain.errors import InvalidInput
from maas.domain.names import shown
from maas.domain.numbers import format_number, format_range
from maas.lifecycle.optimize.results import CandidateResult, Estimate, Measurement

OBJECTIVES = ("latency", "throughput", "size", "memory")
MEMORY_NOISE = 0.02
"""Share by which the resident memory of equal processes differs from start to start."""


def checked_objective(name: str) -> str:
    """Raises InvalidInput that names the known ones."""
    if name not in OBJECTIVES:
        raise InvalidInput(
            f"objective must be one of {', '.join(OBJECTIVES)}; got {shown(name)}",
            field="objective",
        )
    return name


def merit(objective: str, measurement: Measurement) -> Estimate:
    """What is compared, lower is better, as a ratio to the original.

    Latency: the p50 of the smallest batch. Throughput: time per row of the largest batch. Size: the
    bytes of all files. Memory: the resident memory of a fresh process.
    """
    checked_objective(objective)
    if objective == "latency":
        return measurement.speeds[0].p50_ratio
    if objective == "throughput":
        ratio = measurement.speeds[-1].rows_per_s_ratio
        return Estimate(1 / ratio.value, 1 / ratio.high, 1 / ratio.low)
    if objective == "size":
        return Estimate(*(measurement.file_ratio,) * 3)
    memory = measurement.resident_ratio
    return Estimate(memory, memory * (1 - MEMORY_NOISE), memory * (1 + MEMORY_NOISE))


def choose(objective: str, tried: Sequence[CandidateResult]) -> tuple[str, str]:
    """The name of the best and why it is.

    Only those are asked that are surely better than the original, with their whole interval. The
    best is the one with the best bound: else the less is known of a candidate, the more likely it
    would be taken. `tried` has the original first and then simpler candidates before others: the
    first is taken whose value lies where another run may find the best.
    """
    original = tried[0]
    known = [
        (t.name, merit(objective, t.measurement))
        for t in tried[1:]
        if t.passed and t.measurement is not None
    ]
    if not known:
        return original.name, "no candidate passed the gate: the original stays"
    sure = [pair for pair in known if pair[1].high < 1]
    if not sure:
        best_name, best = min(known, key=lambda pair: pair[1].value)
        if best.value >= 1:
            why = f"nothing that passed is better for {objective}: the original stays"
            return original.name, why
        return original.name, (
            f"{best_name} is best for {objective} ({_ratio_text(best)} of the original), which "
            "cannot be told from the original: the original stays"
        )
    best_name, best = min(sure, key=lambda pair: pair[1].high)
    name, found = next(pair for pair in sure if pair[1].value <= best.high)
    told = f"{_ratio_text(found)} of the original's {_unit(objective)}"
    if name == best_name:
        return name, f"the best for {objective} of {len(known)} that passed: {told}"
    return name, (
        f"{told}; {best_name} has {_ratio_text(best)}, which cannot be told apart, "
        f"and {name} is simpler"
    )


def _unit(objective: str) -> str:
    return {
        "latency": "latency",
        "throughput": "time per row",
        "size": "bytes",
        "memory": "memory",
    }[objective]


def _ratio_text(ratio: Estimate) -> str:
    if ratio.low == ratio.high:
        return format_number(ratio.value * 100, "%", digits=3)
    interval = format_range(ratio.low * 100, ratio.high * 100, "%", digits=3)
    return f"{format_number(ratio.value * 100, '%', digits=3)} ({interval})"
