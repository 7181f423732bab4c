"""The parts of an optimization's report that are about one candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maas.domain.numbers import format_change, format_number
from maas.lifecycle.drawing.charts import Row, ranges_svg
from maas.lifecycle.drawing.page import Cell, facts, figure, number, pair, section, table
from maas.lifecycle.drawing.svg import escaped
from maas.lifecycle.metrics.metric_names import named
from maas.lifecycle.optimize.report.pictures import confusion_change_svg
from maas.lifecycle.optimize.results import CandidateResult, Comparison, Difference, RowGroup

MOST_MATRIX = 40
MOST_BARS = 40
MOST_LINES = 12


def candidate_details(tried: CandidateResult, *, open_: bool) -> str:
    """Metrics, classes, slices and confusion of one candidate beside the original."""
    comparison = tried.comparison
    if comparison is None:
        return ""
    verdict = "passed" if tried.passed else "refused"
    content = (
        _metrics(comparison)
        + pair(_confusion(comparison), *_groups(comparison, "class"))
        + pair(*_groups(comparison, "slice"))
    )
    inside = f"<details{' open' if open_ else ''}><summary>Details</summary>{content}</details>"
    return section(f"{tried.name}: {verdict}", inside, note=f"{tried.reason}.")


def _metrics(comparison: Comparison) -> str:
    known = [*comparison.differences]
    known += [comparison.agreement] if comparison.agreement is not None else []
    head: list[Cell] = ["Metric", *map(number, ("Original", "Candidate", *CHANGED))]
    rows = [[escaped(named(d.metric)), *_line(d)] for d in known]
    found = table(head, rows, caption="Metrics")
    if comparison.mcnemar is None:
        return found
    test = comparison.mcnemar
    text = (
        f"Only the original is right on {test['lost']} rows, only the candidate on "
        f"{test['gained']}. McNemar's exact test: p = {format_number(test['p'])} that this "
        "or more is chance if both are equally good."
    )
    return f'{found}<p class="note">{escaped(text)}</p>'


CHANGED = ("Change", "95 % interval", "95 % sure")


def _line(found: Difference) -> list[Cell]:
    sure = f"{'≤' if found.lower_is_better else '≥'} {format_change(found.bound)}"
    return [
        number(escaped(format_number(found.original))),
        number(escaped(format_number(found.candidate))),
        number(escaped(format_change(found.value))),
        number(escaped(f"{format_change(found.low)} to {format_change(found.high)}")),
        number(escaped(sure)),
    ]


def _groups(comparison: Comparison, kind: str) -> list[str]:
    """Change by class, or by slice, as a picture with its table."""
    groups = [g for g in comparison.groups if g.kind == kind and g.differences]
    if not groups:
        return []
    metric = groups[0].differences[0].metric
    worst = sorted(groups, key=_loss)
    shown = groups if len(groups) <= MOST_BARS else worst[:MOST_BARS]
    bars: list[Row] = [
        (g.name, g.rows, g.differences[0].value, (g.differences[0].low, g.differences[0].high))
        for g in shown
    ]
    whole = comparison.difference("accuracy" if metric == "recall" else metric)
    title = f"Change of {named(metric).lower()} by {kind}"
    drawing = ranges_svg(bars, "change", whole=whole.value if whole else None, title=title)
    caption = "Dots are candidate minus original, lines 95 % intervals; dashed: over all rows."
    if len(shown) < len(groups):
        caption += f" The {MOST_BARS} that lost most of {len(groups)}."
    return [figure(title, drawing, caption, _group_table(groups, kind))]


def _group_table(groups: Sequence[RowGroup], kind: str) -> str:
    rows: list[list[Cell]] = [
        [escaped(g.name), number(f"{g.rows:,}"), escaped(named(d.metric)), *_line(d)]
        for g in groups
        for d in g.differences
    ]
    head: list[Cell] = [kind.capitalize(), number("Rows"), "Metric"]
    head += [number(h) for h in ("Original", "Candidate", *CHANGED)]
    return table(head, rows, caption=f"By {kind}")


def _loss(group: RowGroup) -> float:
    first = group.differences[0]
    return -first.value if first.lower_is_better else first.value


def _confusion(comparison: Comparison) -> str:
    if not comparison.confusion or len(comparison.class_names) > MOST_MATRIX:
        return ""
    before, after = comparison.confusion
    names = comparison.class_names
    moved = [
        (after[i][j] - before[i][j], names[i], names[j])
        for i in range(len(names))
        for j in range(len(names))
        if i != j and after[i][j] != before[i][j]
    ]
    moved.sort(key=lambda cell: -cell[0])
    caption = "Rows that moved: blue is better, orange worse than the original."
    if not moved:
        caption = "No row moved to another class."
    elif moved[0][0] > 0:
        caption += f" Most: {moved[0][0]} more of {moved[0][1]} are taken for {moved[0][2]}."
    rows: list[list[Cell]] = [
        [escaped(true), escaped(predicted), number(format_change(change))]
        for change, true, predicted in moved[:MOST_LINES]
    ]
    numbers = table(["True", "Predicted", number("Rows")], rows, caption="Rows that moved")
    drawing = confusion_change_svg(before, after, names)
    return figure("Change of the confusion matrix", drawing, caption, numbers)


def beside_estimator(told: Mapping[str, Any]) -> str:
    """The scikit-learn estimator and its ONNX forms on the same rows."""
    batches = next((list(c["rows_per_s_ratio"]) for c in told["candidates"].values()), [])
    rows = [
        [
            name,
            *(
                number(format_number(v))
                for v in (c["max_abs_diff"], *c["rows_per_s_ratio"].values())
            ),
        ]
        for name, c in told["candidates"].items()
    ]
    head = [
        "candidate",
        number("largest difference"),
        *(number(f"rows/s × ({b})") for b in batches),
    ]
    note = (
        f"{told['estimator']} itself answered the same {told['rows']:,} test rows. The difference "
        f"is of {told['output']}; the ratio is ONNX over scikit-learn, for calls of so many rows."
    )
    return section("Beside scikit-learn", table(head, rows), note=note)


def profile_details(tried: CandidateResult) -> str:
    """What a candidate consists of, and where its time goes."""
    profile = tried.profile or {}
    rows = [(name, escaped(value)) for name, value in profile_lines(profile)]
    slowest = _layers(
        profile.get("slowest") or [], ("Layer that ran", "Operator", "Share", "ms"), _timed_line
    )
    largest = _layers(
        profile.get("largest") or [],
        ("Layer of the graph", "Operator", "Parameters", "Bytes", "Multiply-adds"),
        _sized_line,
    )
    return (
        f"<h3>{escaped(tried.name)}</h3>{facts(rows, caption=f'Profile of {tried.name}')}"
        f"<details><summary>Layers</summary>{pair(slowest, largest)}</details>"
    )


def profile_lines(profile: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The main figures of a profile as (name, text); what is missing says why."""
    missing = profile.get("missing") or {}
    how = profile.get("how") or {}
    currency, per = how.get("currency", ""), how.get("per", "answers")
    lines = []
    for key, name, unit in (
        ("parameters", "parameters", ""),
        ("multiply_adds", f"multiply-adds per {'token' if per == 'tokens' else 'row'}", ""),
        ("file_bytes", "size", " bytes"),
        ("memory_bytes", "memory of a process", " bytes"),
        ("core_seconds_per_1000", f"core-seconds per 1,000 {per}", ""),
        ("cost_per_1000", f"cost per 1,000 {per}", f" {currency}".rstrip()),
    ):
        value = profile.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            lines.append((name, f"unknown: {missing.get(key, 'it was not measured')}"))
        else:
            text = format_number(value)
            lines.append((name, f"{text}{unit}"))
    return lines


def _layers(lines: list[dict[str, Any]], head: Sequence[str], row: Any) -> str:
    cells: list[Cell] = [escaped(h) if i < 2 else number(escaped(h)) for i, h in enumerate(head)]
    return table(cells, [row(line) for line in lines[:MOST_LINES]], caption=head[0])


def _timed_line(line: Mapping[str, Any]) -> list[Cell]:
    share = f"{format_number(line['share'] * 100, digits=3)} %"
    return [
        escaped(line["name"]),
        escaped(line["op"]),
        number(share),
        number(format_number(line["ms"])),
    ]


def _sized_line(line: Mapping[str, Any]) -> list[Cell]:
    counts = (line["parameters"], line["bytes"], line["multiply_adds"])
    told = [number("–" if c is None else f"{c:,}") for c in counts]
    return [escaped(line["name"]), escaped(line["op"]), *told]
