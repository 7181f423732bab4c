"""Choice of the best candidate for an objective among those that passed the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from maas.domain.errors import InvalidInput
from maas.domain.names import shown
from maas.domain.numbers import format_number, format_range
from maas.lifecycle.optimize.results import CandidateResult, Estimate, Measurement

OBJECTIVES = ("latency", "throughput", "size", "memory")
MEMORY_NOISE = 0.02
"""Share by which the resident memory of equal processes differs from start to start."""
_QUANTITIES: Mapping[str, str] = {
    "latency": "latency",
    "throughput": "time per row",
    "size": "bytes",
    "memory": "memory",
}


def checked_objective(name: str) -> str:
    """The name itself. Raises InvalidInput if there is no such objective."""
    if name not in OBJECTIVES:
        raise InvalidInput(
            f"objective must be one of {', '.join(OBJECTIVES)}; got {shown(name)}",
            field="objective",
        )
    return name


def cost_ratio(objective: str, measurement: Measurement) -> Estimate:
    """Cost of a candidate for an objective, as a ratio to the original; lower is better.

    Latency: p50 of the smallest batch. Throughput: time per row of the largest batch. Size: bytes
    of all files. Memory: resident memory of a new process.
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


def choose(objective: str, results: Sequence[CandidateResult]) -> tuple[str, str]:
    """Name of the best candidate, and the reason.

    `results` has the original first, then simpler candidates before others. Only candidates whose
    whole interval is better than the original are considered. The best one has the best upper bound
    of its cost; by the value itself, candidates with wide intervals would be more likely to be
    chosen. The first candidate is chosen whose value is not worse than that bound, because a repeat
    could find the best one there.
    """
    original = results[0]
    costs: list[tuple[str, Estimate]] = []
    for result in results[1:]:
        if result.passed and result.measurement is not None:
            costs.append((result.name, cost_ratio(objective, result.measurement)))
    if not costs:
        return original.name, "no candidate passed the gate, so the original stays"
    better = [(name, cost) for name, cost in costs if cost.high < 1]
    if not better:
        best_name, best = min(costs, key=lambda pair: pair[1].value)
        if best.value >= 1:
            reason = f"no candidate that passed is better for {objective}, so the original stays"
        else:
            reason = (
                f"{best_name} is best for {objective} ({_ratio_text(best)} of the original), but "
                "not significantly better than the original, which therefore stays"
            )
        return original.name, reason
    best_name, best = min(better, key=lambda pair: pair[1].high)
    name, cost = next(pair for pair in better if pair[1].value <= best.high)
    summary = f"{_ratio_text(cost)} of the original's {_QUANTITIES[objective]}"
    if name == best_name:
        return name, f"the best for {objective} of {len(costs)} that passed: {summary}"
    return name, (
        f"{summary}; {best_name} has {_ratio_text(best)}, which is not significantly better, and "
        f"{name} is simpler"
    )


def _ratio_text(ratio: Estimate) -> str:
    value = format_number(ratio.value * 100, "%", digits=3)
    if ratio.low == ratio.high:
        return value
    return f"{value} ({format_range(ratio.low * 100, ratio.high * 100, '%', digits=3)})"
