"""Report: what an optimization tried, what each cost, and why it was kept or dropped, as HTML."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.numbers import format_number, format_range
from maas.lifecycle.drawing.page import Cell, facts, figure, number, page, section, table
from maas.lifecycle.drawing.svg import escaped
from maas.lifecycle.metrics.metric_names import LOWER_IS_BETTER, named
from maas.lifecycle.optimize.judgment.choose import MEMORY_NOISE, merit
from maas.lifecycle.optimize.judgment.gate import Gate, Rule
from maas.lifecycle.optimize.report.candidate_sections import (
    beside_estimator,
    candidate_details,
    profile_details,
)
from maas.lifecycle.optimize.report.figure_names import labels_of
from maas.lifecycle.optimize.report.pictures import Point, pareto_svg
from maas.lifecycle.optimize.results import (
    CandidateResult,
    Comparison,
    Difference,
    Estimate,
    Measurement,
    Optimization,
)

MOST_DETAILED = 12
SAID_ELSEWHERE = ("what", "libraries", "skipped")
"""Of how a candidate was made."""


def render_optimization(found: Optimization) -> str:
    """One self-contained HTML document: inline style and pictures, no script, no network."""
    content = [
        _header(found),
        section("Quality and cost", _pareto(found)),
        section("What was tried", _tried(found), note=_gate_note(found)),
        section("What each costs", _costs(found), note=_cost_note(found)),
    ]
    if found.how.get("estimator"):
        content.append(beside_estimator(found.how["estimator"]))
    detailed = [t for t in found.results[1:] if t.comparison is not None]
    # The chosen one first, then those that were refused: there a reader wants to know why.
    detailed.sort(key=lambda t: (t.name != found.chosen, t.passed))
    for tried in detailed[:MOST_DETAILED]:
        content.append(candidate_details(tried, open_=tried.name == found.chosen))
    content.append(
        section("What they consist of", *(profile_details(t) for t in found.results if t.profile))
    )
    content.append(section("How to get this again", _how(found)))
    content.append("<footer>Made by OpenMaaS. This file is self-contained.</footer>")
    return page(f"{found.model}: optimization", content)


def _cost_note(found: Optimization) -> str:
    return (
        "Each candidate ran in turns with the original, in fresh processes on the same cores. "
        "Ratios are candidate over original. An interval is where 99.9 % of repeats of the "
        "measurement fall, since this report has hundreds of figures, and as wide as the median "
        "candidate's at least. Gate and choice rest on narrower ones, of 99 %. "
        "Figures without × depend on what else the machine did at that time; "
        f"ratios hardly do. Memory differs by up to {MEMORY_NOISE * 100:.0f} % from start to "
        f"start. {labels_of(found.task).columns}"
    )


def _header(found: Optimization) -> str:
    made = time.strftime("%-d %B %Y, %H:%M UTC", time.gmtime(found.created_at))
    kicker = "Optimization" + (f" · {made}" if found.created_at else "")
    compared = [t for t in found.results[1:] if not t.failure]
    passed = sum(t.passed for t in compared)
    text = (
        f"{len(compared)} candidates were compared for {found.objective}, {passed} passed the gate"
        f"{_left_out(found)}. Chosen: {found.chosen}, {found.chosen_reason}."
    )
    others = [f"{o} {name}" for o, name in found.best.items() if o != found.objective]
    text += f" By other objectives it would be: {', '.join(others)}." if others else ""
    return (
        f'<header>\n<p class="kicker">{escaped(kicker)}</p>\n<h1>{escaped(found.model)}</h1>\n'
        f"<p>{escaped(text)}</p>\n{_tiles(found)}</header>"
    )


def _left_out(found: Optimization) -> str:
    count = sum(bool(t.failure) for t in found.results[1:])
    return f"; {count} could not be made or are left out, with the reasons below" if count else ""


def _tiles(found: Optimization) -> str:
    chosen = next((t for t in found.results if t.name == found.chosen), None)
    if chosen is None or chosen.measurement is None:
        return ""
    measured, labels = chosen.measurement, labels_of(found.task)
    first, last = measured.speeds[0], measured.speeds[-1]
    lines = [
        (f"{labels.rate.capitalize()}, {labels.call.format(last.batch)}", last.rows_per_s_ratio),
        (f"p50, {labels.call.format(first.batch)}", first.p50_ratio),
        ("File size", Estimate(*(measured.file_ratio,) * 3)),
        ("Memory", Estimate(*(measured.resident_ratio,) * 3)),
    ]
    tiles = "".join(
        f'<li><span class="name">{escaped(name)}</span><b>× {format_number(ratio.value)}</b>'
        f"<span>{escaped(_between(ratio))}</span></li>"
        for name, ratio in lines
    )
    return (
        f'<ul class="tiles" aria-label="The chosen one against the original">{tiles}</ul>\n'
        f'<p class="note">{escaped(found.chosen)} against the original.</p>\n'
    )


def _between(found: Estimate) -> str:
    return "" if found.low == found.high else format_range(found.low, found.high)


def _main_rule(found: Optimization) -> tuple[str, Rule | None]:
    """The metric of the picture, the first that the gate names, with its rule."""
    told = [t.comparison for t in found.results if t.comparison is not None]
    try:
        rules = Gate.parse(found.gate).rules
    except InvalidInput:
        rules = ()
    for rule in rules:
        if any(c.difference(rule.metric) for c in told):
            return rule.metric, rule
    for comparison in told:
        first = next(iter(comparison.differences), comparison.agreement)
        if first is not None:
            return first.metric, None
    return "", None


def _pareto(found: Optimization) -> str:
    metric, rule = _main_rule(found)
    points: list[Point] = []
    original: float | None = None
    lines: list[list[Cell]] = []
    for index, tried in enumerate(found.results[1:], start=2):
        difference = tried.comparison.difference(metric) if tried.comparison else None
        if difference is None or difference.original is None or tried.measurement is None:
            continue
        original = difference.original
        cost, quality = merit(found.objective, tried.measurement), _level(difference)
        kind = "kept" if tried.passed else "dropped"
        points.append(Point(index, tried.name, cost, quality, kind, tried.name == found.chosen))
        lines.append(
            [
                f"{index}. {escaped(tried.name)}",
                number(escaped(format_number(cost.value))),
                number(escaped(_between(cost))),
                number(escaped(format_number(quality.value))),
                number(escaped(format_range(quality.low, quality.high))),
            ]
        )
    if original is None:
        return ""
    name = found.original.name
    here = Estimate(original, original, original)
    chosen = name == found.chosen
    points.insert(0, Point(1, name, Estimate(1.0, 1.0, 1.0), here, "original", chosen))
    lower = metric in LOWER_IS_BETTER or metric == "perplexity"
    drawing = pareto_svg(
        points,
        (
            labels_of(found.task).costs[found.objective],
            named(metric) + (" (lower is better)" if lower else ""),
        ),
        threshold=_threshold(rule, original),
        higher_is_better=not lower,
    )
    caption = (
        "Dots passed the gate, crosses did not; numbers are lines of the table below, 1 is the "
        "original. Thin lines are intervals: of quality where the difference from the original is "
        "with 95 % confidence, of cost where 99.9 % of repeats of the measurement fall. A circle "
        "marks the chosen one. The gate asks for a bound, so a cross may be above its line: it was "
        "not shown to stay there."
    )
    head: list[Cell] = [
        "Candidate",
        *map(number, ("Cost", "99.9 %", escaped(named(metric)), "95 %")),
    ]
    numbers = table(head, lines, caption="Quality and cost")
    return figure(f"{named(metric)} against {found.objective}", drawing, caption, numbers)


def _level(found: Difference) -> Estimate:
    before = found.original or 0.0
    return Estimate(before + found.value, before + found.low, before + found.high)


def _threshold(rule: Rule | None, original: float) -> float | None:
    if rule is None:
        return None
    if rule.kind == "level":
        return rule.value
    return original * (1 + rule.value) if rule.kind == "relative" else original + rule.value


def _gate_note(found: Optimization) -> str:
    return (
        f"Gate: {found.gate or 'none'}. A rule holds if its one-sided 95 % bound does, "
        f"{labels_of(found.task).judged}"
    )


def _tried(found: Optimization) -> str:
    rows: list[list[Cell]] = []
    for index, tried in enumerate(found.results, start=1):
        if tried is found.original:
            mark, why = "", "what the others are compared with"
        elif "skipped" in tried.how:
            mark, why = '<span class="soft">left out</span>', tried.failure
        elif tried.failure:
            mark, why = '<span class="bad">failed</span>', tried.failure
        elif tried.passed:
            mark, why = '<span class="good">kept</span>', tried.reason
        else:
            mark, why = '<span class="bad">dropped</span>', tried.reason
        chosen = "<small>chosen</small>" if tried.name == found.chosen else ""
        name = f"{index}. {escaped(tried.name)}{chosen}"
        rows.append([name, mark, (escaped(_what(tried)), "soft"), escaped(why)])
    made = [
        [f"{index}. {escaped(tried.name)}", escaped(_how_made(tried))]
        for index, tried in enumerate(found.results, start=1)
        if not tried.failure
    ]
    how = table(["Candidate", "Made by"], made, caption="How each was made")
    return (
        table(["Candidate", "", "What it is", "Why"], rows, caption="What was tried")
        + f"<details><summary>How each was made</summary>{how}</details>"
    )


def _what(tried: CandidateResult) -> str:
    return str(tried.how.get("what") or "")


def _how_made(tried: CandidateResult) -> str:
    told = {key: value for key, value in tried.how.items() if key not in SAID_ELSEWHERE}
    said_ = [f"{key.replace('_', ' ')}: {_plain(value)}" for key, value in told.items()]
    return "; ".join([*said_, f"threads: {tried.threads}"])


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(v) for v in value)
    return format_number(value) if isinstance(value, float) else str(value)


def _costs(found: Optimization) -> str:
    measured = [(i, t.measurement) for i, t in enumerate(found.results, start=1)]
    known = [(i, m) for i, m in measured if m is not None]
    if not known:
        return ""
    batches = [speed.batch for speed in known[0][1].speeds]
    rate = labels_of(found.task).rate
    speeds = [speed for _, m in known for speed in m.speeds]
    has_p99 = any(speed.p99_ms for speed in speeds)
    times = ["p50"] + ["p99"] * has_p99 + ["first"] * any(speed.first_ms for speed in speeds)
    head: list[Cell] = ["Candidate"]
    head += [number(h) for h in ("Size, MB", "Memory, MB")]
    head += [number(f"{what}, {b}") for what in (rate, *times) for b in batches]
    head += [number(h) for h in ("Core-s per 1,000", "J per 1,000")]
    rows = [_cost_line(f"{i}. {escaped(m.candidate)}", m, has_p99) for i, m in known]
    notes = [
        f"{m.candidate}: {note}" for _, m in known for note in m.notes
    ]  # what disturbed one candidate's turns may not have disturbed another's
    told = "".join(f'<p class="note">{escaped(n)}.</p>' for n in notes)
    why = {m.energy_note for _, m in known}
    energy = f'<p class="note">Energy: {escaped("; ".join(sorted(why)))}.</p>'
    return (
        table(head, rows, caption=f"What each costs; {' and '.join(times)} in ms") + energy + told
    )


def _cost_line(name: str, measured: Measurement, has_p99: bool) -> list[Cell]:
    line: list[Cell] = [name]
    speeds = measured.speeds
    line.append(number(f"{format_number(measured.file_bytes / 1e6)}{_ratio(measured.file_ratio)}"))
    line.append(
        number(f"{format_number(measured.resident_bytes / 1e6)}{_ratio(measured.resident_ratio)}")
    )
    line += [_pair(s.rows_per_s, s.rows_per_s_ratio) for s in speeds]
    line += [_pair(s.p50_ms, s.p50_ratio) for s in speeds]
    if has_p99:
        line += [_pair(s.p99_ms, s.p99_ratio) for s in speeds]
    line += [_pair(s.first_ms, s.first_ratio) for s in speeds if s.first_ms and s.first_ratio]
    work = measured.core_seconds_per_1000
    line.append(number(f"{format_number(work.value)}<br><small>{escaped(_between(work))}</small>"))
    line.append(number(format_number(measured.joules_per_1000)))
    return line


def _pair(value: Estimate | None, ratio: Estimate | None) -> Cell:
    if value is None or ratio is None:
        return number("–")
    return number(
        f"{format_number(value.value)}{_ratio(ratio.value)}"
        f"<br><small>× {format_range(ratio.low, ratio.high)}</small>"
    )


def _ratio(value: float) -> str:
    return f'<br><span class="soft">× {format_number(value)}</span>'


def _how(found: Optimization) -> str:
    rows = [("command", f'<span class="code">{escaped(found.command)}</span>')]
    rows += [(k.replace("_", " "), escaped(_plain(v))) for k, v in found.how.items()]
    compared = next((t.comparison for t in found.results if t.comparison is not None), None)
    rows += _compared(compared, labels_of(found.task).compared)
    return facts(rows, caption="How this was obtained")


def _compared(comparison: Comparison | None, what: str) -> list[tuple[str, str]]:
    if comparison is None:
        return []
    methods = sorted({d.method for d in comparison.differences if d.method})
    rows = [("compared on", f"{comparison.rows:,} {what}")]
    return rows + [("bounds by", "<br>".join(escaped(m) for m in methods))] * bool(methods)
