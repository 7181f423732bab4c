"""Sections of an optimization's report about single candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
DIFFERENCE_COLUMNS = ("Original", "Candidate", "Change", "95 % interval", "95 % bound")


def candidate_details(result: CandidateResult, *, open_: bool) -> str:
    """Metrics, classes, slices and confusion of a candidate against the original."""
    comparison = result.comparison
    if comparison is None:
        return ""
    content = (
        _metrics(comparison)
        + pair(_confusion(comparison), *_group_figures(comparison, "class"))
        + pair(*_group_figures(comparison, "slice"))
    )
    details = f"<details{' open' if open_ else ''}><summary>Details</summary>{content}</details>"
    status = "accepted" if result.passed else "rejected"
    return section(f"{result.name}: {status}", details, note=f"{result.reason}.")


def _metrics(comparison: Comparison) -> str:
    differences = [*comparison.differences]
    if comparison.agreement is not None:
        differences.append(comparison.agreement)
    head: list[Cell] = ["Metric", *map(number, DIFFERENCE_COLUMNS)]
    rows = [[escaped(named(d.metric)), *_difference_cells(d)] for d in differences]
    metrics = table(head, rows, caption="Metrics")
    if comparison.mcnemar is None:
        return metrics
    test = comparison.mcnemar
    text = (
        f"Only the original is right on {test['lost']} rows, only the candidate on "
        f"{test['gained']}. McNemar's exact test: if both were equally good, a difference at least "
        f"as large would have probability p = {format_number(test['p'])}."
    )
    return f'{metrics}<p class="note">{escaped(text)}</p>'


def _difference_cells(difference: Difference) -> list[Cell]:
    """Cells of `DIFFERENCE_COLUMNS`."""
    interval = f"{format_change(difference.low)} to {format_change(difference.high)}"
    sign = "≤" if difference.lower_is_better else "≥"
    return [
        number(escaped(format_number(difference.original))),
        number(escaped(format_number(difference.candidate))),
        number(escaped(format_change(difference.value))),
        number(escaped(interval)),
        number(escaped(f"{sign} {format_change(difference.bound)}")),
    ]


def _group_figures(comparison: Comparison, grouping: str) -> list[str]:
    """Figure of the change by class or slice, with its table; empty if there are no groups."""
    groups = [g for g in comparison.groups if g.grouping == grouping and g.differences]
    if not groups:
        return []
    metric = groups[0].differences[0].metric
    shown = groups
    caption = "Dots are candidate minus original, lines 95 % intervals; dashed: over all rows."
    if len(groups) > MOST_BARS:
        shown = sorted(groups, key=_gain)[:MOST_BARS]
        caption += f" The {MOST_BARS} of {len(groups)} groups with the largest loss."
    bars: list[Row] = []
    for group in shown:
        first = group.differences[0]
        bars.append((group.name, group.rows, first.value, (first.low, first.high)))
    overall = comparison.difference("accuracy" if metric == "recall" else metric)
    whole = overall.value if overall else None
    title = f"Change of {named(metric).lower()} by {grouping}"
    drawing = ranges_svg(bars, "change", whole=whole, title=title)
    return [figure(title, drawing, caption, _group_table(groups, grouping))]


def _group_table(groups: Sequence[RowGroup], grouping: str) -> str:
    rows: list[list[Cell]] = []
    for group in groups:
        for difference in group.differences:
            cells: list[Cell] = [
                escaped(group.name),
                number(f"{group.rows:,}"),
                escaped(named(difference.metric)),
                *_difference_cells(difference),
            ]
            rows.append(cells)
    head: list[Cell] = [grouping.capitalize(), number("Rows"), "Metric"]
    head += map(number, DIFFERENCE_COLUMNS)
    return table(head, rows, caption=f"By {grouping}")


def _gain(group: RowGroup) -> float:
    first = group.differences[0]
    return -first.value if first.lower_is_better else first.value


def _confusion(comparison: Comparison) -> str:
    """Figure of the change of the confusion matrix; empty if there are too many classes."""
    if not comparison.confusion or len(comparison.class_names) > MOST_MATRIX:
        return ""
    before, after = comparison.confusion
    names = comparison.class_names
    changes: list[tuple[int, str, str]] = []
    for i, true in enumerate(names):
        for j, predicted in enumerate(names):
            if i != j and after[i][j] != before[i][j]:
                changes.append((after[i][j] - before[i][j], true, predicted))
    changes.sort(key=lambda change: -change[0])
    caption = "Changed rows: blue is better than the original, orange worse."
    if not changes:
        caption = "No row changed to another class."
    elif changes[0][0] > 0:
        count, true, predicted = changes[0]
        caption += f" Most: {count} more rows of {true} are predicted as {predicted}."
    rows: list[list[Cell]] = [
        [escaped(true), escaped(predicted), number(format_change(count))]
        for count, true, predicted in changes[:MOST_LINES]
    ]
    numbers = table(["True", "Predicted", number("Rows")], rows, caption="Changed rows")
    drawing = confusion_change_svg(before, after, names)
    return figure("Change of the confusion matrix", drawing, caption, numbers)


def estimator_section(comparison: Mapping[str, Any]) -> str:
    """The scikit-learn estimator against its ONNX candidates on the same rows."""
    candidates = comparison["candidates"]
    batches = next((list(c["rows_per_s_ratio"]) for c in candidates.values()), [])
    rows: list[list[Cell]] = []
    for name, candidate in candidates.items():
        values = (candidate["max_abs_diff"], *candidate["rows_per_s_ratio"].values())
        rows.append([name, *(number(format_number(value)) for value in values)])
    columns = ["Largest difference", *(f"rows/s ×, {batch}" for batch in batches)]
    head: list[Cell] = ["Candidate", *map(number, columns)]
    note = (
        f"{comparison['estimator']} itself answered the same {comparison['rows']:,} test rows. The "
        f"difference is that of {comparison['output']}; the ratio is ONNX over scikit-learn. "
        "Numbers in column heads are rows per call."
    )
    return section("Comparison with scikit-learn", table(head, rows), note=note)


def profile_details(result: CandidateResult) -> str:
    """Profile of a candidate, with its slowest and largest layers."""
    profile = result.profile or {}
    rows = [(name, escaped(value)) for name, value in profile_lines(profile)]
    slowest = _layers(
        profile.get("slowest") or [], ("Executed layer", "Operator", "Share", "ms"), _time_cells
    )
    largest = _layers(
        profile.get("largest") or [],
        ("Layer of the graph", "Operator", "Parameters", "Bytes", "Multiply-adds"),
        _size_cells,
    )
    return (
        f"<h3>{escaped(result.name)}</h3>{facts(rows, caption=f'Profile of {result.name}')}"
        f"<details><summary>Layers</summary>{pair(slowest, largest)}</details>"
    )


def profile_lines(profile: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and text of the main figures of a profile, with the reason if one is missing."""
    missing = profile.get("missing") or {}
    how = profile.get("how") or {}
    currency, per = how.get("currency", ""), how.get("per", "answers")
    lines = []
    for key, name, unit in (
        ("parameters", "parameters", ""),
        ("multiply_adds", f"multiply-adds per {'token' if per == 'tokens' else 'row'}", ""),
        ("file_bytes", "size", "bytes"),
        ("memory_bytes", "memory of a process", "bytes"),
        ("core_seconds_per_1000", f"core-seconds per 1,000 {per}", ""),
        ("cost_per_1000", f"cost per 1,000 {per}", currency),
    ):
        value = profile.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            lines.append((name, f"unknown: {missing.get(key, 'it was not measured')}"))
        else:
            lines.append((name, format_number(value, unit)))
    return lines


def _layers(
    layers: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    cells: Callable[[Mapping[str, Any]], list[Cell]],
) -> str:
    """Table of layers whose first two columns are texts."""
    head: list[Cell] = [*columns[:2], *map(number, columns[2:])]
    return table(head, [cells(layer) for layer in layers[:MOST_LINES]], caption=columns[0])


def _time_cells(layer: Mapping[str, Any]) -> list[Cell]:
    share = format_number(layer["share"] * 100, "%", digits=3)
    ms = format_number(layer["ms"])
    return [escaped(layer["name"]), escaped(layer["op"]), number(share), number(ms)]


def _size_cells(layer: Mapping[str, Any]) -> list[Cell]:
    counts = [format_number(layer[key]) for key in ("parameters", "bytes", "multiply_adds")]
    return [escaped(layer["name"]), escaped(layer["op"]), *map(number, counts)]
