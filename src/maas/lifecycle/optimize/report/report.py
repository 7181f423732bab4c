"""Report of an optimization as HTML, with the reason for every candidate."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from maas.domain.numbers import format_number, format_range
from maas.lifecycle.drawing.page import Cell, facts, number, page, section, table
from maas.lifecycle.drawing.svg import escaped
from maas.lifecycle.optimize.judgment.choose import MEMORY_NOISE
from maas.lifecycle.optimize.report.candidate_sections import (
    candidate_details,
    estimator_section,
    profile_details,
)
from maas.lifecycle.optimize.report.figure_names import figure_names
from maas.lifecycle.optimize.report.quality_and_cost import quality_and_cost_figure
from maas.lifecycle.optimize.results import CandidateResult, Estimate, Measurement, Optimization

MOST_DETAILED = 12
SHOWN_ELSEWHERE = ("description", "libraries", "skipped")
"""Keys of `CandidateResult.how` that the report shows in other places."""


def render_optimization(optimization: Optimization) -> str:
    """A self-contained HTML document with inline style and charts, without scripts or network."""
    results = optimization.results
    content = [
        _header(optimization),
        section("Quality and cost", quality_and_cost_figure(optimization)),
        section("Candidates", _candidates(optimization), note=_gate_note(optimization)),
        section("Cost", _costs(optimization), note=_cost_note(optimization)),
    ]
    if optimization.how.get("estimator"):
        content.append(estimator_section(optimization.how["estimator"]))
    detailed = [result for result in results[1:] if result.comparison is not None]
    # The chosen candidate comes first, then the rejected ones, whose reasons readers look for.
    detailed.sort(key=lambda result: (result.name != optimization.chosen, result.passed))
    for result in detailed[:MOST_DETAILED]:
        content.append(candidate_details(result, open_=result.name == optimization.chosen))
    profiles = [profile_details(result) for result in results if result.profile]
    content.append(section("Profiles", *profiles))
    content.append(section("How to repeat it", _how(optimization)))
    content.append("<footer>Made by OpenMaaS. This file is self-contained.</footer>")
    return page(f"{optimization.model}: optimization", content)


def _header(optimization: Optimization) -> str:
    kicker = "Optimization"
    if optimization.created_at:
        created = time.gmtime(optimization.created_at)
        kicker += f" · {time.strftime('%-d %B %Y, %H:%M UTC', created)}"
    candidates = optimization.results[1:]
    compared = [result for result in candidates if not result.failure]
    passed = sum(result.passed for result in compared)
    text = (
        f"Candidates compared for {optimization.objective}: {len(compared)}. Passed the gate: "
        f"{passed}."
    )
    failed = len(candidates) - len(compared)
    if failed:
        text += f" Skipped or failed: {failed}, for the reasons below."
    text += f" Chosen: {optimization.chosen}, {optimization.chosen_reason}."
    best = optimization.best.items()
    others = [f"{name} for {o}" for o, name in best if o != optimization.objective]
    if others:
        text += f" Best for other objectives: {', '.join(others)}."
    return (
        f'<header>\n<p class="kicker">{escaped(kicker)}</p>\n'
        f"<h1>{escaped(optimization.model)}</h1>\n"
        f"<p>{escaped(text)}</p>\n{_tiles(optimization)}</header>"
    )


def _tiles(optimization: Optimization) -> str:
    """The main ratios of the chosen candidate."""
    chosen = next((r for r in optimization.results if r.name == optimization.chosen), None)
    if chosen is None or chosen.measurement is None:
        return ""
    measurement, names = chosen.measurement, figure_names(optimization.task)
    first, last = measurement.speeds[0], measurement.speeds[-1]
    ratios = [
        (f"{names.rate.capitalize()}, {names.load.format(last.batch)}", last.rows_per_s_ratio),
        (f"p50, {names.load.format(first.batch)}", first.p50_ratio),
        ("File size", Estimate(*(measurement.file_ratio,) * 3)),
        ("Memory", Estimate(*(measurement.resident_ratio,) * 3)),
    ]
    tiles = "".join(
        f'<li><span class="name">{escaped(name)}</span><b>× {format_number(ratio.value)}</b>'
        f"<span>{escaped(_interval(ratio))}</span></li>"
        for name, ratio in ratios
    )
    return (
        f'<ul class="tiles" aria-label="The chosen candidate against the original">{tiles}</ul>\n'
        f'<p class="note">{escaped(optimization.chosen)} against the original.</p>\n'
    )


def _interval(estimate: Estimate) -> str:
    if estimate.low == estimate.high:
        return ""
    return format_range(estimate.low, estimate.high)


def _gate_note(optimization: Optimization) -> str:
    return (
        f"Gate: {optimization.gate or 'none'}. A rule passes if its one-sided 95 % bound does, "
        f"{figure_names(optimization.task).judged}"
    )


def _candidates(optimization: Optimization) -> str:
    """All candidates with their status and reason, and how each was made."""
    rows: list[list[Cell]] = []
    origins: list[list[Cell]] = []
    for index, result in enumerate(optimization.results, start=1):
        status, reason = _status(result)
        if result is optimization.original:
            status, reason = "", "the original, with which all others are compared"
        chosen = "<small>chosen</small>" if result.name == optimization.chosen else ""
        name = f"{index}. {escaped(result.name)}"
        description = escaped(result.how.get("description") or "")
        rows.append([f"{name}{chosen}", status, (description, "soft"), escaped(reason)])
        if not result.failure:
            origins.append([name, escaped(_how_made(result))])
    candidates = table(["Candidate", "", "Description", "Reason"], rows, caption="Candidates")
    how = table(["Candidate", "Made by"], origins, caption="How each was made")
    return f"{candidates}<details><summary>How each was made</summary>{how}</details>"


def _status(result: CandidateResult) -> tuple[str, str]:
    """Status as HTML, and the reason for it."""
    if "skipped" in result.how:
        return '<span class="soft">skipped</span>', result.failure
    if result.failure:
        return '<span class="bad">failed</span>', result.failure
    if result.passed:
        return '<span class="good">accepted</span>', result.reason
    return '<span class="bad">rejected</span>', result.reason


def _how_made(result: CandidateResult) -> str:
    parts = [
        f"{key.replace('_', ' ')}: {_plain_text(value)}"
        for key, value in result.how.items()
        if key not in SHOWN_ELSEWHERE
    ]
    return "; ".join([*parts, f"threads: {result.threads}"])


def _plain_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain_text(v)}" for key, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain_text(v) for v in value)
    return format_number(value) if isinstance(value, float) else str(value)


def _cost_note(optimization: Optimization) -> str:
    return (
        "Candidate and original ran interleaved, in new processes on the same cores. Ratios are "
        "candidate over original. An interval is the range of 99.9 % of repeats of the "
        "measurement, because this report has hundreds of figures, and at least as wide as that of "
        "the median candidate. Gate and choice use the narrower range of 99 %. Figures without × "
        "depend on other load of the machine at that time; ratios hardly do. Memory differs by up "
        f"to {MEMORY_NOISE * 100:.0f} % from start to start. "
        f"{figure_names(optimization.task).columns}"
    )


def _costs(optimization: Optimization) -> str:
    """Table of the measured costs of all candidates, with notes."""
    measured: list[tuple[int, Measurement]] = []
    for index, result in enumerate(optimization.results, start=1):
        if result.measurement is not None:
            measured.append((index, result.measurement))
    if not measured:
        return ""
    speeds = [speed for _, measurement in measured for speed in measurement.speeds]
    has_p99 = any(speed.p99_ms for speed in speeds)
    times = ["p50"]
    if has_p99:
        times.append("p99")
    if any(speed.first_ms for speed in speeds):
        times.append("first")
    columns = ["Size, MB", "Memory, MB"]
    for figure in (figure_names(optimization.task).rate, *times):
        columns += [f"{figure}, {speed.batch}" for speed in measured[0][1].speeds]
    columns += ["Core-s per 1,000", "J per 1,000"]
    head: list[Cell] = ["Candidate", *map(number, columns)]
    rows = [_cost_row(f"{i}. {escaped(m.candidate)}", m, has_p99) for i, m in measured]
    caption = f"Cost; {' and '.join(times)} in ms"
    energy_notes = "; ".join(sorted({m.energy_note for _, m in measured}))
    notes = [f"Energy: {energy_notes}."]
    for _, measurement in measured:
        # A disturbance of one candidate's runs need not have affected those of others.
        notes += [f"{measurement.candidate}: {note}." for note in measurement.notes]
    paragraphs = "".join(f'<p class="note">{escaped(note)}</p>' for note in notes)
    return table(head, rows, caption=caption) + paragraphs


def _cost_row(name: str, measurement: Measurement, has_p99: bool) -> list[Cell]:
    speeds, work = measurement.speeds, measurement.core_seconds_per_1000
    row: list[Cell] = [
        name,
        number(_with_ratio(measurement.file_bytes / 1e6, measurement.file_ratio)),
        number(_with_ratio(measurement.resident_bytes / 1e6, measurement.resident_ratio)),
    ]
    row += [_with_interval(s.rows_per_s, s.rows_per_s_ratio) for s in speeds]
    row += [_with_interval(s.p50_ms, s.p50_ratio) for s in speeds]
    if has_p99:
        row += [_with_interval(s.p99_ms, s.p99_ratio) for s in speeds]
    row += [_with_interval(s.first_ms, s.first_ratio) for s in speeds if s.first_ms]
    interval = escaped(_interval(work))
    row.append(number(f"{format_number(work.value)}<br><small>{interval}</small>"))
    row.append(number(format_number(measurement.joules_per_1000)))
    return row


def _with_ratio(value: float, ratio: float) -> str:
    return f'{format_number(value)}<br><span class="soft">× {format_number(ratio)}</span>'


def _with_interval(value: Estimate | None, ratio: Estimate | None) -> Cell:
    if value is None or ratio is None:
        return number("–")
    interval = format_range(ratio.low, ratio.high)
    return number(f"{_with_ratio(value.value, ratio.value)}<br><small>× {interval}</small>")


def _how(optimization: Optimization) -> str:
    rows = [("command", f'<span class="code">{escaped(optimization.command)}</span>')]
    for key, value in optimization.how.items():
        rows.append((key.replace("_", " "), escaped(_plain_text(value))))
    comparisons = [r.comparison for r in optimization.results if r.comparison is not None]
    if comparisons:
        unit = figure_names(optimization.task).compared
        rows.append(("compared on", f"{comparisons[0].rows:,} {unit}"))
        methods = sorted({d.method for d in comparisons[0].differences if d.method})
        if methods:
            rows.append(("bounds by", "<br>".join(escaped(method) for method in methods)))
    return facts(rows, caption="How the figures were obtained")
