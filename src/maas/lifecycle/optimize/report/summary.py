"""An optimization as JSON and as a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maas.domain.numbers import format_number
from maas.lifecycle.optimize.report.figure_names import figure_names
from maas.lifecycle.optimize.results import (
    CandidateResult,
    Estimate,
    Measurement,
    Optimization,
    to_json,
)

_SPEED_FIELDS: Mapping[str, str] = {
    "p50_ms": "p50_ms",
    "p99_ms": "p99_ms",
    "{rate}": "rows_per_s",
    "first_ms": "first_ms",
    "p50_ratio": "p50_ratio",
    "p99_ratio": "p99_ratio",
    "{rate}_ratio": "rows_per_s_ratio",
    "first_ratio": "first_ratio",
}
"""Fields of `Speed`, by the name of the metric."""


def headings(optimization: Optimization) -> tuple[str, ...]:
    """Column heads of `terminal_rows`."""
    rate = figure_names(optimization.task).rate
    return ("candidate", "passed", "quality", "p50", rate, "size", "memory", "reason")


def metrics_of(result: CandidateResult) -> dict[str, Any]:
    """Every figure of a candidate by name: {value, low, high}, or a number if it is exact.

    Quality comes first, with the change from the original as `NAME_change`; costs follow.
    """
    metrics: dict[str, Any] = {}
    if result.comparison is not None:
        differences = [*result.comparison.differences]
        if result.comparison.agreement is not None:
            differences.append(result.comparison.agreement)
        for difference in differences:
            metrics[difference.metric] = difference.candidate
            metrics[f"{difference.metric}_change"] = {
                "value": difference.value,
                "low": difference.low,
                "high": difference.high,
            }
    if result.measurement is not None:
        metrics |= _costs(result.measurement)
    return metrics


def _costs(measurement: Measurement) -> dict[str, Any]:
    preposition, rate = ("batch", "rows_per_s")
    if measurement.unit == "token":
        preposition, rate = ("at", "tokens_per_s")
    costs: dict[str, Any] = {}
    for speed in measurement.speeds:
        for template, field in _SPEED_FIELDS.items():
            estimate = getattr(speed, field)
            if estimate is not None:
                name = template.format(rate=rate)
                costs[f"{name}_{preposition}_{speed.batch}"] = _interval(estimate)
    return costs | {
        "file_bytes": measurement.file_bytes,
        "file_ratio": measurement.file_ratio,
        "resident_bytes": measurement.resident_bytes,
        "resident_ratio": measurement.resident_ratio,
        "core_seconds_per_1000": _interval(measurement.core_seconds_per_1000),
        "joules_per_1000": measurement.joules_per_1000,
    }


def _interval(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def summary(optimization: Optimization) -> dict[str, Any]:
    """The report as JSON values: `candidates` (name, metrics, passed, reason, …), `chosen`, …"""
    original = optimization.original
    return {
        "model": optimization.model,
        "task": str(optimization.task),
        "objective": optimization.objective,
        "gate": optimization.gate,
        "chosen": optimization.chosen,
        "chosen_reason": optimization.chosen_reason,
        "best": dict(optimization.best),
        "command": optimization.command,
        "how": optimization.how,
        "created_at": optimization.created_at,
        "candidates": [_candidate(r, r is original) for r in optimization.results],
    }


def _candidate(result: CandidateResult, is_original: bool) -> dict[str, Any]:
    measurement = result.measurement
    return {
        "name": result.name,
        "runtime": result.runtime,
        "passed": is_original or result.passed,
        "reason": "the original" if is_original else result.reason,
        "metrics": metrics_of(result),
        "threads": result.threads,
        "batch": result.batch,
        "how": result.how,
        "notes": list(measurement.notes) if measurement else [],
        "energy_note": measurement.energy_note if measurement else "",
        "verdict": to_json(result.verdict) if result.verdict else None,
        "comparison": to_json(result.comparison) if result.comparison else None,
        "profile": result.profile,
    }


def terminal_rows(optimization: Optimization) -> list[Sequence[object]]:
    """Rows of a table, with a mark at the chosen candidate; × marks ratios to the original."""
    rows: list[Sequence[object]] = []
    for result in optimization.results:
        name = f"{result.name} *" if result.name == optimization.chosen else result.name
        passed, reason = "yes" if result.passed else "no", result.reason
        if result is optimization.original:
            passed, reason = "original", ""
        rows.append((name, passed, _quality(result), *_cost_columns(result), reason))
    return rows


def _quality(result: CandidateResult) -> str | None:
    if result.comparison is None:
        return None
    main = next(iter(result.comparison.differences), result.comparison.agreement)
    if main is None or main.candidate is None:
        return None
    return f"{main.metric} {format_number(main.candidate)}"


def _cost_columns(result: CandidateResult) -> tuple[object, ...]:
    measurement = result.measurement
    if measurement is None:
        return (None,) * 4
    first, last = measurement.speeds[0], measurement.speeds[-1]
    return (
        f"{format_number(first.p50_ms.value, 'ms')} ×{first.p50_ratio.value:.2f}",
        f"{last.rows_per_s.value:,.0f} ×{last.rows_per_s_ratio.value:.2f}",
        f"{format_number(measurement.file_bytes / 1e6, 'MB')} ×{measurement.file_ratio:.2f}",
        f"{measurement.resident_bytes / 1e6:.0f} MB ×{measurement.resident_ratio:.2f}",
    )
