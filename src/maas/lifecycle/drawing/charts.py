"""Charts of an evaluation's values, each an SVG string for a page with `svg.STYLE`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maas.domain.numbers import format_number, format_range
from maas.lifecycle.drawing.svg import GLYPH, Plot, clipped, element, escaped, label, picture

SQUARE = (400.0, 340.0)
MOST_NUMBERED = 20
"""Largest number of classes for which a confusion matrix has numbers in its cells."""


def confusion_svg(matrix: Sequence[Sequence[float]], classes: Sequence[str]) -> str:
    """Confusion matrix: rows are true classes, columns predicted ones, shades shares of a row."""
    count = len(classes)
    names = [clipped(name, 14) for name in classes]
    cell = max(6.0, min(64.0, 380.0 / count))
    name_size = GLYPH * max(map(len, names))
    turned = name_size > cell - 4
    # Cells too small for all names show every `every`-th one.
    every = max(1, round(14 / cell + 0.49))
    left, top = 30 + name_size, 24 + (name_size * 0.8 + 8 if turned else 18)
    parts = []
    for i, row in enumerate(matrix):
        total = sum(row)
        y = top + i * cell
        if i % every == 0:
            parts.append(label(left - 8, y + cell / 2 + 4, names[i], text_anchor="end"))
            x = left + i * cell + cell / 2
            turn = f"rotate(-50 {x:.1f} {top - 8:.1f})" if turned else None
            anchor = "start" if turned else "middle"
            parts.append(label(x, top - 8, names[i], text_anchor=anchor, transform=turn))
        for j, value in enumerate(row):
            share = value / total if total else 0.0
            hint = f"true {classes[i]}, predicted {classes[j]}: {format_number(value)}"
            numbered = count <= MOST_NUMBERED
            parts += _cell((left + j * cell, y, cell), value, share, hint, i == j, numbered)
    side = count * cell
    middle = top + side / 2
    parts.append(label(left + side / 2, 14, "predicted", text_anchor="middle", class_="soft"))
    turn = f"rotate(-90 12 {middle:.1f})"
    parts.append(label(12, middle + 4, "true", text_anchor="middle", class_="soft", transform=turn))
    right = left + side + (name_size * 0.65 if turned else 4)
    return picture(right, top + side + 4, parts, title="Confusion matrix")


def _cell(
    place: tuple[float, float, float],
    value: float,
    share: float,
    hint: str,
    right: bool,
    numbered: bool,
) -> list[str]:
    """One cell at (x, y, size): a faint square, a shade over it, and its number."""
    x, y, size = place
    gap, radius = (1.0 if size > 10 else 0.0), (2.0 if size > 20 else 0.0)
    box: dict[str, Any] = {"x": x, "y": y, "width": size - gap, "height": size - gap, "rx": radius}
    parts = [element("rect", class_="fill-faint", **box)]
    if value:
        kind = "fill-main" if right else "fill-other"
        # A single mistake among many rows must stay visible.
        shade = 0.12 + 0.88 * share
        title = f"<title>{escaped(hint)}</title>"
        parts.append(element("rect", title, class_=kind, fill_opacity=shade, **box))
    if value and numbered:
        middle = (size - gap) / 2
        on = "on" if share > 0.5 else "strong" if right else None
        text = format_number(value, digits=1)
        parts.append(label(x + middle, y + middle + 4, text, text_anchor="middle", class_=on))
    return parts


def reliability_svg(bins: Sequence[Mapping[str, Any]], *, binary: bool) -> str:
    """Observed frequency against predicted probability; below, the number of rows per bin."""
    plot = Plot(SQUARE, (0, 1), (0, 1), margins=(14, 16, 92, 52))
    plot.axes(
        "predicted probability of class 1" if binary else "confidence in the predicted class",
        "observed frequency of class 1" if binary else "accuracy",
    )
    plot.line([(0, 0), (1, 1)], "even")
    filled = [b for b in bins if b["rows"]]
    plot.line([(b["confidence"], b["share"]) for b in filled], "line main")
    most = max([1, *(b["rows"] for b in bins)])
    floor, room = plot.height - 26, 34.0
    for b in filled:
        confidence, share = format_number(b["confidence"]), format_number(b["share"])
        hint = f"{b['rows']} rows: confidence {confidence}, observed {share}"
        plot.dot(b["confidence"], b["share"], "fill-main", 3.0 + 3.0 * (b["rows"] / most) ** 0.5)
        tall = max(1.0, b["rows"] / most * room)
        plot.parts.append(
            element(
                "rect",
                f"<title>{escaped(hint)}</title>",
                x=plot.x(b["low"]) + 1,
                y=floor - tall,
                width=plot.x(b["high"]) - plot.x(b["low"]) - 2,
                height=tall,
                class_="fill-rule",
            )
        )
    plot.text(plot.left - 8, floor, "rows", anchor="end", kind="soft")
    return plot.draw("Reliability diagram")


def score_curve_svg(
    curves: Sequence[Mapping[str, Any]], classes: Sequence[str], worst: int | None, kind: str
) -> str:
    """ROC or precision-recall curves, by `kind` `roc` or `pr`; class `worst` is highlighted."""
    across, up = ("false_positive", "true_positive") if kind == "roc" else ("recall", "precision")
    plot = Plot(SQUARE, (0, 1), (0, 1))
    if kind == "roc":
        plot.axes("false positive rate", "true positive rate")
        plot.line([(0, 0), (1, 1)], "even")
    else:
        plot.axes("recall", "precision")
    for curve in sorted(curves, key=lambda c: c["class"] == worst):
        points = list(zip(curve[across], curve[up], strict=True))
        if len(curves) == 1:
            plot.line(points, "line main")
        elif curve["class"] == worst:
            plot.line(points, "line other")
        else:
            plot.line(points, "thin main")
    if len(curves) > 1 and worst is not None:
        x, y = plot.right - 8, plot.bottom - 28
        named = clipped(classes[worst], 20)
        plot.text(x, y, f"lowest: {named}", anchor="end", kind="text-other halo")
        plot.text(x, y + 16, "the other classes", anchor="end", kind="text-main halo")
    return plot.draw("ROC curves" if kind == "roc" else "Precision-recall curves")


Row = tuple[str, int, float | None, Sequence[float] | None]
"""Name, number of rows, value and interval of a group of rows."""


def ranges_svg(rows: Sequence[Row], x_label: str, *, whole: float | None, title: str) -> str:
    """One line per group: its value as a dot, its interval as a whisker, its number of rows.

    `whole` is the value over all rows, drawn as a dashed line.
    """
    defined = [v for _, _, v, _ in rows if v is not None]
    ends = [e for *_, i in rows if i for e in i]
    values = [*defined, *ends, *([] if whole is None else [whole])] or [0.0, 1.0]
    low, high = min(values), max(values)
    margin = (high - low) * 0.06 or 0.02
    names = [clipped(name, 22) for name, *_ in rows]
    left = 20 + GLYPH * max([4, *map(len, names)])
    height = 24.0 * len(rows) + 72
    top = min(high + margin, 1.0) if high <= 1 else high + margin
    plot = Plot((520.0, height), (low - margin, top), (0, len(rows)), margins=(22, 66, 50, left))
    plot.across(x_label)
    plot.line([(plot.left, plot.bottom), (plot.right, plot.bottom)], "rule", plain=True)
    if whole is not None:
        plot.line([(whole, 0), (whole, len(rows))], "even")
        text = f"all rows {format_number(whole)}"
        plot.text(plot.x(whole), 12, text, anchor="middle", kind="soft")
    plot.text(plot.width - 4, 12, "rows", anchor="end", kind="soft")
    for index, (name, count, value, interval) in enumerate(rows):
        y = len(rows) - index - 0.5
        plot.text(plot.left - 12, plot.y(y) + 4, names[index], anchor="end")
        plot.text(plot.width - 4, plot.y(y) + 4, f"{count:,}", anchor="end", kind="soft")
        if interval:
            plot.line([(interval[0], y), (interval[1], y)], "whisker main")
        if value is None:
            plot.text(plot.left + 4, plot.y(y) + 4, "undefined", kind="soft")
            continue
        between = f", {format_range(interval[0], interval[1])}" if interval else ""
        plot.dot(value, y, "fill-main", hint=f"{name}: {format_number(value)}{between}")
    return plot.draw(title)


def predicted_svg(sample: Mapping[str, Sequence[float]], units: str) -> str:
    """Predicted against true values; they are equal on the dashed line."""
    pairs = list(zip(sample["true"], sample["predicted"], strict=True))
    everything = [v for pair in pairs for v in pair]
    low, high = min(everything), max(everything)
    margin = (high - low) * 0.04
    span = (low - margin, high + margin)
    plot = Plot(SQUARE, span, span, margins=(14, 16, 44, 64))
    unit = f", {units}" if units else ""
    plot.axes(f"true{unit}", f"predicted{unit}")
    plot.line([(plot.domain_x[0],) * 2, (plot.domain_x[1],) * 2], "even")
    for true, predicted in pairs:
        plot.dot(true, predicted, "dust", 3.0)
    return plot.draw("Predicted and true values")


def residuals_svg(residuals: Mapping[str, Sequence[float]], units: str) -> str:
    """Histogram of the residuals, predicted − true."""
    edges, rows = residuals["edges"], residuals["rows"]
    plot = Plot(SQUARE, (edges[0], edges[-1]), (0, max([1, *rows]) * 1.05))
    plot.axes(f"predicted − true{', ' + units if units else ''}", "rows")
    for low, high, count in zip(edges, edges[1:], rows, strict=False):
        hint = f"<title>{escaped(f'{format_range(low, high)}: {count} rows')}</title>"
        plot.parts.append(
            element(
                "rect",
                hint,
                x=plot.x(low) + 0.5,
                y=plot.y(count),
                width=max(1.0, plot.x(high) - plot.x(low) - 1),
                height=plot.bottom - plot.y(count),
                class_="fill-main",
                fill_opacity=0.75,
            )
        )
    if edges[0] < 0 < edges[-1]:
        plot.line([(0, 0), (0, plot.domain_y[1])], "even")
    return plot.draw("Residuals")
