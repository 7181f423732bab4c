"""Figures of a report: an evaluation's values as charts and tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from maas.domain.numbers import format_number, format_range
from maas.lifecycle.drawing.charts import (
    MOST_NUMBERED,
    Row,
    confusion_svg,
    predicted_svg,
    ranges_svg,
    reliability_svg,
    residuals_svg,
    score_curve_svg,
)
from maas.lifecycle.drawing.page import Cell, figure, number, number_row, pair, table
from maas.lifecycle.drawing.svg import escaped
from maas.lifecycle.metrics.metric_names import LOWER_IS_BETTER, named

MOST_BARS = 40
MOST_MATRIX = 40
MOST_MISTAKES = 10


def class_figures(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(Title, HTML) of the sections on classes, ranking and calibration."""
    figures = [("Classes", pair(_confusion(values), _per_class(values)))]
    for title, content in (
        ("Ranking", pair(*_curves(values))),
        ("Calibration", pair(*_reliability(values))),
    ):
        if content:
            figures.append((title, content))
    return figures


def _confusion(values: Mapping[str, Any]) -> str:
    matrix, classes = values["confusion"], values["classes"]
    if matrix is None:
        return ""
    wrong = _misclassified(matrix, classes)
    caption = "Shades are shares of the true class. "
    if wrong:
        rows_text = format_number(wrong[0][0], digits=1)
        caption += f"Most frequent confusion: {wrong[0][1]} predicted as {wrong[0][2]} "
        caption += f"({rows_text} rows)."
    else:
        caption += "No row is misclassified."
    if len(classes) <= MOST_NUMBERED:
        head, rows = _matrix_rows(matrix, classes)
    else:
        head, rows = _mistake_rows(wrong[:MOST_MISTAKES])
    drawing = ""
    if len(classes) <= MOST_MATRIX:
        drawing = confusion_svg(matrix, classes)
    return figure("Confusion matrix", drawing, caption, table(head, rows, caption="Confusion"))


Rows = tuple[list[Cell], list[list[Cell]]]
"""Head and other rows of a table."""


def _matrix_rows(matrix: Sequence[Sequence[float]], classes: Sequence[str]) -> Rows:
    rows = [_formatted_row(name, row, digits=1) for name, row in zip(classes, matrix, strict=True)]
    return number_row("true \\ predicted", *classes), rows


def _mistake_rows(mistakes: Sequence[tuple[float, str, str]]) -> Rows:
    rows: list[list[Cell]] = []
    for count, true, predicted in mistakes:
        text = format_number(count, digits=1)
        rows.append([escaped(true), escaped(predicted), number(text)])
    return ["True", "Predicted", number("Rows")], rows


def _misclassified(
    matrix: Sequence[Sequence[float]], classes: Sequence[str]
) -> list[tuple[float, str, str]]:
    """(Rows, true class, predicted class) of every cell off the diagonal, largest first."""
    cells = []
    for i, row in enumerate(matrix):
        for j, count in enumerate(row):
            if i != j and count:
                cells.append((count, classes[i], classes[j]))
    return sorted(cells, key=lambda cell: -cell[0])


def _per_class(values: Mapping[str, Any]) -> str:
    entries = values["per_class"]
    names = [n for n in ("precision", "recall", "f1", "roc_auc", "pr_auc") if n in entries[0]]
    lines = [_formatted_row(e["class"], [e["rows"], *map(e.get, names)]) for e in entries]
    head = number_row("Class", "Rows", *map(named, names))
    caption = "Dots are the F1 of each class, lines its 95 % confidence interval."
    shown = entries
    if len(entries) > MOST_BARS:
        shown = sorted(entries, key=_f1_or_last)[:MOST_BARS]
        caption += f" Shown are the {MOST_BARS} lowest of {len(entries)} classes."
    rows: list[Row] = [(e["class"], e["rows"], e["f1"], e["intervals"].get("f1")) for e in shown]
    whole = values["metrics"].get("f1_macro")
    drawing = ranges_svg(rows, "F1", whole=whole, title="F1 by class")
    return figure("F1 by class", drawing, caption, table(head, lines, caption="By class"))


def _f1_or_last(entry: Mapping[str, Any]) -> float:
    """Sorting key: the F1 of a class; classes without one come last."""
    f1 = entry["f1"]
    if f1 is None:
        return 2.0
    return float(f1)


def _reliability(values: Mapping[str, Any]) -> list[str]:
    """The reliability diagram, and its numbers as a second figure."""
    bins = values["calibration"]
    if bins is None:
        return []
    rows = []
    for one in bins:
        name = format_range(one["low"], one["high"], digits=2)
        rows.append(_formatted_row(name, [one["rows"], one["confidence"], one["share"]]))
    head = number_row("Bin", "Rows", "Mean confidence", "Observed frequency")
    ece = values["metrics"].get("ece")
    caption = (
        "On the dashed line, confidence equals the observed frequency. The mean distance from "
        f"it, the expected calibration error, is {format_number(ece)}."
    )
    drawing = reliability_svg(bins, binary=len(values["classes"]) == 2)
    numbers = table(head, rows, caption="Reliability")
    return [
        figure("Reliability", drawing, caption),
        f"<figure><h3>By confidence</h3>{numbers}</figure>",
    ]


def _curves(values: Mapping[str, Any]) -> list[str]:
    if not values["curves"]:
        return []
    return [
        _curve(values, "roc", "ROC", "roc_auc"),
        _curve(values, "pr", "Precision and recall", "pr_auc"),
    ]


def _curve(values: Mapping[str, Any], kind: str, title: str, key: str) -> str:
    """Figure of the curves of a `kind`, `roc` or `pr`, whose areas are the metric `key`."""
    classes, metrics = values["classes"], values["metrics"]
    areas: dict[int, float] = {}
    lines = []
    for index, entry in enumerate(values["per_class"]):
        area = entry.get(key)
        if area is not None:
            areas[index] = area
            lines.append(_formatted_row(classes[index], [area]))
    if key in metrics:
        caption = f"The area under the curve is {format_number(metrics[key])}."
    else:
        mean = format_number(metrics.get(f"{key}_macro"))
        caption = f"The area under the curve is {mean} on average over the classes."
    worst = min(areas, key=areas.__getitem__, default=None)
    drawing = score_curve_svg(values["curves"], classes, worst, kind)
    numbers = table(number_row("Class", named(key)), lines, caption=title)
    return figure(title, drawing, caption, numbers)


def regression_figures(values: Mapping[str, Any], units: str) -> str:
    """Predicted against true values, and the residuals."""
    sample, residuals = values["sample"], values["residuals"]
    edges = residuals["edges"]
    rows = []
    for low, high, count in zip(edges, edges[1:], residuals["rows"], strict=False):
        rows.append(number_row(format_range(low, high), f"{count:,}"))
    shown = len(sample["true"])
    return pair(
        figure(
            "Predicted and true",
            predicted_svg(sample, units),
            f"{shown:,} rows. On the dashed line, prediction and true value are equal.",
        ),
        figure(
            "Residuals",
            residuals_svg(residuals, units),
            "Predicted minus true value. A peak away from 0 indicates a bias.",
            table(number_row("Residual", "Rows"), rows, caption="Residuals"),
        ),
    )


def slice_figures(values: Mapping[str, Any]) -> str:
    """One chart per slice, of accuracy or the mean absolute error."""
    slices: dict[str, list[Mapping[str, Any]]] = {}
    for group in values["slices"]:
        slices.setdefault(group["slice"], []).append(group)
    overall = values["metrics"]
    return pair(*(_slice_figure(name, groups, overall) for name, groups in slices.items()))


def _slice_figure(
    name: str, groups: Sequence[Mapping[str, Any]], overall: Mapping[str, float | None]
) -> str:
    """Figure of the groups of a slice; `overall` has the metrics over all rows."""
    metrics = list(groups[0]["metrics"])
    main = "mae"
    if "accuracy" in metrics:
        main = "accuracy"
    rows: list[Row] = []
    lines: list[list[Cell]] = []
    for group in groups:
        value, interval = group["metrics"][main], group["intervals"].get(main)
        rows.append((group["value"], group["rows"], value, interval))
        figures = [group["rows"], *map(group["metrics"].get, metrics)]
        lines.append(_formatted_row(group["value"], figures))
    x_label = named(main)
    if main in LOWER_IS_BETTER:
        x_label += " (lower is better)"
    title = f"{named(main)} by {name}"
    drawing = ranges_svg(rows, x_label, whole=overall.get(main), title=title)
    caption = (
        "Dashed: the value over all rows. A group whose interval excludes it performs differently."
    )
    head = number_row("Group", "Rows", *map(named, metrics))
    return figure(f"By {name}", drawing, caption, table(head, lines, caption=name))


def _formatted_row(name: str, values: Iterable[float | None], digits: int = 4) -> list[Cell]:
    """A row of a table: a name and formatted numbers."""
    return number_row(name, *(format_number(value, digits=digits) for value in values))
