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
from maas.lifecycle.drawing.page import Cell, figure, number, pair, table
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
        head: list[Cell] = ["true \\ predicted", *(number(escaped(c)) for c in classes)]
        rows: list[list[Cell]] = [
            [escaped(name), *_numbers(row, digits=1)]
            for name, row in zip(classes, matrix, strict=True)
        ]
    else:
        head = ["True", "Predicted", number("Rows")]
        rows = [
            [escaped(t), escaped(p), number(format_number(n, digits=1))]
            for n, t, p in wrong[:MOST_MISTAKES]
        ]
    drawing = confusion_svg(matrix, classes) if len(classes) <= MOST_MATRIX else ""
    return figure("Confusion matrix", drawing, caption, table(head, rows, caption="Confusion"))


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
    worst = sorted(entries, key=lambda e: e["f1"] if e["f1"] is not None else 2.0)
    shown = entries if len(entries) <= MOST_BARS else worst[:MOST_BARS]
    rows: list[Row] = [(e["class"], e["rows"], e["f1"], e["intervals"].get("f1")) for e in shown]
    names = [n for n in ("precision", "recall", "f1", "roc_auc", "pr_auc") if n in entries[0]]
    lines: list[list[Cell]] = []
    for entry in entries:
        cells = _numbers([entry["rows"], *(entry[n] for n in names)])
        lines.append([escaped(entry["class"]), *cells])
    head: list[Cell] = ["Class", number("Rows"), *(number(escaped(named(n))) for n in names)]
    caption = "Dots are the F1 of each class, lines its 95 % confidence interval."
    if len(shown) < len(entries):
        caption += f" Shown are the {MOST_BARS} lowest of {len(entries)} classes."
    whole = values["metrics"].get("f1_macro")
    drawing = ranges_svg(rows, "F1", whole=whole, title="F1 by class")
    return figure("F1 by class", drawing, caption, table(head, lines, caption="By class"))


def _reliability(values: Mapping[str, Any]) -> list[str]:
    """The reliability diagram, and its numbers as a second figure."""
    bins = values["calibration"]
    if bins is None:
        return []
    rows: list[list[Cell]] = [
        [
            format_range(b["low"], b["high"], digits=2),
            number(f"{b['rows']:,}"),
            number(format_number(b["confidence"])),
            number(format_number(b["share"])),
        ]
        for b in bins
    ]
    head: list[Cell] = [
        "Bin",
        number("Rows"),
        number("Mean confidence"),
        number("Observed frequency"),
    ]
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
    curves, classes = values["curves"], values["classes"]
    if not curves:
        return []
    figures = []
    for kind, title, key in (
        ("roc", "ROC", "roc_auc"),
        ("pr", "Precision and recall", "pr_auc"),
    ):
        by_class = {i: e[key] for i, e in enumerate(values["per_class"]) if e.get(key) is not None}
        worst = min(by_class, key=lambda i: by_class[i]) if by_class else None
        whole = values["metrics"].get(key, values["metrics"].get(f"{key}_macro"))
        average = "" if key in values["metrics"] else " on average over the classes"
        caption = f"The area under the curve is {format_number(whole)}{average}."
        lines: list[list[Cell]] = [
            [escaped(classes[i]), number(format_number(v))] for i, v in by_class.items()
        ]
        numbers = table(["Class", number(escaped(named(key)))], lines, caption=title)
        drawing = score_curve_svg(curves, classes, worst, kind)
        figures.append(figure(title, drawing, caption, numbers))
    return figures


def regression_figures(values: Mapping[str, Any], units: str) -> str:
    """Predicted against true values, and the residuals."""
    sample, residuals = values["sample"], values["residuals"]
    edges = residuals["edges"]
    rows: list[list[Cell]] = [
        [format_range(low, high), number(f"{count:,}")]
        for low, high, count in zip(edges, edges[1:], residuals["rows"], strict=False)
    ]
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
            table(["Residual", number("Rows")], rows, caption="Residuals"),
        ),
    )


def slice_figures(values: Mapping[str, Any]) -> str:
    """One chart per slice, of accuracy or the mean absolute error."""
    figures = []
    for name in dict.fromkeys(s["slice"] for s in values["slices"]):
        groups = [s for s in values["slices"] if s["slice"] == name]
        main = "accuracy" if "accuracy" in groups[0]["metrics"] else "mae"
        rows: list[Row] = [
            (g["value"], g["rows"], g["metrics"][main], g["intervals"].get(main)) for g in groups
        ]
        metrics = list(groups[0]["metrics"])
        lines: list[list[Cell]] = []
        for group in groups:
            cells = _numbers([group["rows"], *map(group["metrics"].get, metrics)])
            lines.append([escaped(group["value"]), *cells])
        head: list[Cell] = ["Group", number("Rows"), *(number(escaped(named(m))) for m in metrics)]
        better = " (lower is better)" if main in LOWER_IS_BETTER else ""
        drawing = ranges_svg(
            rows,
            named(main) + better,
            whole=values["metrics"].get(main),
            title=f"{named(main)} by {name}",
        )
        caption = (
            "Dashed: the value over all rows. A group whose interval excludes it performs "
            "differently."
        )
        figures.append(figure(f"By {name}", drawing, caption, table(head, lines, caption=name)))
    return pair(*figures)


def _numbers(values: Iterable[float | None], digits: int = 4) -> list[Cell]:
    """Cells with formatted numbers."""
    return [number(format_number(value, digits=digits)) for value in values]
