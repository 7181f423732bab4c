"""An optimization as JSON and as a table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maas.domain.numbers import format_number
from maas.lifecycle.optimize.report.figure_names import labels_of
from maas.lifecycle.optimize.results import CandidateResult, Estimate, Optimization, to_json

_SPEEDS = (
    ("p50_ms", "p50_ms"), ("p99_ms", "p99_ms"), ("rate", "rows_per_s"), ("first_ms", "first_ms"),
    ("p50_ratio", "p50_ratio"), ("p99_ratio", "p99_ratio"), ("rate_ratio", "rows_per_s_ratio"),
    ("first_ratio", "first_ratio"),
)  # fmt: skip


def headings(found: Optimization) -> tuple[str, ...]:
    """Of `terminal_rows`."""
    rate = labels_of(found.task).rate
    return ("candidate", "passed", "quality", "p50", rate, "size", "memory", "reason")


def metrics_of(tried: CandidateResult) -> dict[str, Any]:
    """Every figure of a candidate by its name: {value, low, high}, or a number where it is exact.

    Quality first, with the change against the original as `NAME_change`; then the costs.
    """
    found: dict[str, Any] = {}
    if tried.comparison is not None:
        known = [*tried.comparison.differences]
        known += [tried.comparison.agreement] if tried.comparison.agreement else []
        for difference in known:
            found[difference.metric] = difference.candidate
            found[f"{difference.metric}_change"] = {
                "value": difference.value,
                "low": difference.low,
                "high": difference.high,
            }
    if tried.measurement is not None:
        token = tried.measurement.unit == "token"
        where, rate = ("at", "tokens_per_s") if token else ("batch", "rows_per_s")
        for speed in tried.measurement.speeds:
            for name, key in _SPEEDS:
                estimate = getattr(speed, key)
                if estimate is not None:
                    named = name.replace("rate", rate)
                    found[f"{named}_{where}_{speed.batch}"] = _interval(estimate)
        measured = tried.measurement
        found |= {
            "file_bytes": measured.file_bytes,
            "file_ratio": measured.file_ratio,
            "resident_bytes": measured.resident_bytes,
            "resident_ratio": measured.resident_ratio,
            "core_seconds_per_1000": _interval(measured.core_seconds_per_1000),
            "joules_per_1000": measured.joules_per_1000,
        }
    return found


def summary(found: Optimization) -> dict[str, Any]:
    """The report as JSON values: `candidates` (name, metrics, passed, reason, …) and `chosen`."""
    return {
        "model": found.model,
        "task": str(found.task),
        "objective": found.objective,
        "gate": found.gate,
        "chosen": found.chosen,
        "chosen_reason": found.chosen_reason,
        "best": dict(found.best),
        "command": found.command,
        "how": found.how,
        "created_at": found.created_at,
        "candidates": [_candidate(t, t is found.original) for t in found.results],
    }


def _candidate(tried: CandidateResult, original: bool) -> dict[str, Any]:
    return {
        "name": tried.name,
        "runtime": tried.runtime,
        "passed": original or tried.passed,
        "reason": "the original" if original else tried.reason,
        "metrics": metrics_of(tried),
        "threads": tried.threads,
        "batch": tried.batch,
        "how": tried.how,
        "notes": list(tried.measurement.notes) if tried.measurement else [],
        "energy_note": tried.measurement.energy_note if tried.measurement else "",
        "verdict": to_json(tried.verdict) if tried.verdict else None,
        "comparison": to_json(tried.comparison) if tried.comparison else None,
        "profile": tried.profile,
    }


def terminal_rows(found: Optimization) -> list[Sequence[object]]:
    """Rows below `headings`, the chosen one marked; ratios are to the original."""
    rows: list[Sequence[object]] = []
    for tried in found.results:
        original = tried is found.original
        mark = " *" if tried.name == found.chosen else ""
        passed = "original" if original else "yes" if tried.passed else "no"
        why = "" if original else tried.reason
        rows.append((f"{tried.name}{mark}", passed, _quality(tried), *_costs(tried), why))
    return rows


def _quality(tried: CandidateResult) -> str | None:
    if tried.comparison is None:
        return None
    main = next(iter(tried.comparison.differences), tried.comparison.agreement)
    if main is None or main.candidate is None:
        return None
    return f"{main.metric} {format_number(main.candidate)}"


def _costs(tried: CandidateResult) -> tuple[object, ...]:
    measured = tried.measurement
    if measured is None:
        return (None,) * 4
    first, last = measured.speeds[0], measured.speeds[-1]
    return (
        f"{format_number(first.p50_ms.value, 'ms')} ×{first.p50_ratio.value:.2f}",
        f"{last.rows_per_s.value:,.0f} ×{last.rows_per_s_ratio.value:.2f}",
        f"{format_number(measured.file_bytes / 1e6, 'MB')} ×{measured.file_ratio:.2f}",
        f"{measured.resident_bytes / 1e6:.0f} MB ×{measured.resident_ratio:.2f}",
    )


def _interval(found: Estimate) -> dict[str, float]:
    return {"value": found.value, "low": found.low, "high": found.high}
