"""Charts of an optimization as SVG, for a page with `svg.STYLE`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from maas.domain.numbers import format_change, format_number, format_range
from maas.lifecycle.drawing.svg import GLYPH, Plot, clipped, element, escaped, label, picture
from maas.lifecycle.optimize.results import Estimate

MOST_NUMBERED = 20


@dataclass(frozen=True)
class Point:
    """A candidate in the chart of quality against cost."""

    number: int
    """Number of the candidate in the table."""
    name: str
    cost: Estimate
    """Ratio to the original; lower is better."""
    quality: Estimate
    """Value of the metric; the chart's `higher_is_better` applies."""
    status: str
    """original | accepted | rejected"""
    chosen: bool = False
    hint: str = ""
    outside: bool = False
    """The point is drawn at the edge, because it is far outside of the chart."""

    def description(self) -> str:
        """Name, status and figures, for a tooltip."""
        status = "the original" if self.status == "original" else self.status
        cost, quality = self.cost, self.quality
        return (
            f"{self.name}, {status}: cost {format_number(cost.value)} "
            f"({format_range(cost.low, cost.high)}), quality {format_number(quality.value)} "
            f"({format_range(quality.low, quality.high)})"
        )


def frontier(points: Sequence[Point], higher_is_better: bool) -> list[Point]:
    """Points that no other point beats in both cost and quality (Pareto), cheapest first."""
    sign = 1 if higher_is_better else -1
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost.value, -sign * p.quality.value)):
        if not best or sign * point.quality.value > sign * best[-1].quality.value:
            best.append(point)
    return best


def pareto_svg(
    points: Sequence[Point],
    labels: tuple[str, str],
    *,
    threshold: float | None,
    higher_is_better: bool = True,
) -> str:
    """Chart of quality against cost with intervals, and a line through the Pareto frontier.

    `labels` are those of cost and quality; `threshold` is that of the gate, a dashed line.
    """
    points = _limited(points, threshold, higher_is_better)
    costs: list[float] = []
    heights: list[float] = []
    for point in points:
        costs += _values(point.cost)
        heights += _values(point.quality)
    if threshold is not None:
        heights.append(threshold)
    margin_y = (max(heights) - min(heights)) * 0.08 or 0.01
    margin_x = (max(costs) - min(costs)) * 0.06 or 0.05
    plot = Plot(
        (680.0, 400.0),
        (max(0.0, min(costs) - margin_x), max(costs) + margin_x),
        (min(heights) - margin_y, max(heights) + margin_y),
        margins=(18, 24, 44, 76),
    )
    plot.axes(*labels)
    if threshold is not None:
        plot.line([(plot.domain_x[0], threshold), (plot.domain_x[1], threshold)], "even")
        y = plot.y(threshold)
        plot.text(plot.right, y - 6, "gate", anchor="end", kind="soft halo")
    best = frontier([p for p in points if p.status != "rejected"], higher_is_better)
    plot.line([(p.cost.value, p.quality.value) for p in best], "thin main")
    for point in points:
        _point(plot, point)
    _numbers(plot, points)
    return plot.draw("Quality against cost of every candidate")


def _limited(
    points: Sequence[Point], threshold: float | None, higher_is_better: bool
) -> list[Point]:
    """Points with outliers moved to the edge, so that the others remain distinguishable.

    The table below the chart and the tooltips have the measured values.
    """
    sign = 1 if higher_is_better else -1
    relevant = [p for p in points if p.status != "rejected"]
    qualities = []
    for point in relevant:
        qualities += [sign * value for value in _values(point.quality)]
    if threshold is not None:
        qualities.append(sign * threshold)
    span = max(qualities) - min(qualities) or 0.01
    floor = min(qualities) - 2 * span
    cheap = [p.cost.value for p in relevant if p.cost.value <= 2]
    ceiling = max(2.0, 1.5 * max(cheap, default=1.0))

    def limited_cost(cost: Estimate) -> Estimate:
        return Estimate(*(min(value, ceiling) for value in _values(cost)))

    def limited_quality(quality: Estimate) -> Estimate:
        return Estimate(*(sign * max(sign * value, floor) for value in _values(quality)))

    return [
        replace(
            point,
            cost=limited_cost(point.cost),
            quality=limited_quality(point.quality),
            hint=point.description(),
            outside=point.cost.value > ceiling or sign * point.quality.value < floor,
        )
        for point in points
    ]


def _values(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high


def _point(plot: Plot, point: Point) -> None:
    rejected = point.status == "rejected"
    color = "other" if rejected else "main"
    cost, quality = point.cost, point.quality
    plot.line([(cost.low, quality.value), (cost.high, quality.value)], f"thin {color}")
    plot.line([(cost.value, quality.low), (cost.value, quality.high)], f"thin {color}")
    hint = point.hint or point.description()
    x, y = plot.x(cost.value), plot.y(quality.value)
    if point.chosen:
        plot.parts.append(element("circle", None, class_="line main", cx=x, cy=y, r=9.0))
    if rejected:
        title = f"<title>{escaped(hint)}</title>"
        cross = f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"
        plot.parts.append(element("path", title, d=cross, class_="line other"))
    else:
        plot.dot(cost.value, quality.value, "fill-main", 4.5, hint)


def _numbers(plot: Plot, points: Sequence[Point]) -> None:
    """Adds the number next to each point, moved up where another number is in the way."""
    positions: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: -p.quality.value):
        x, y = plot.x(point.cost.value) + 10, plot.y(point.quality.value) + 14
        while any(abs(x - a) < 16 and abs(y - b) < 13 for a, b in positions) and y > plot.top:
            y -= 13
        positions.append((x, y))
        text = f"{point.number} (far outside)" if point.outside else str(point.number)
        if point.outside and x > plot.right - 80:
            x -= 100
        plot.text(x, y, text, kind="strong halo" if point.chosen else "halo")


def confusion_change_svg(
    before: Sequence[Sequence[int]], after: Sequence[Sequence[int]], classes: Sequence[str]
) -> str:
    """Chart of the change of each cell of a confusion matrix: blue is better, orange worse."""
    count = len(classes)
    names = [clipped(name, 14) for name in classes]
    longest = GLYPH * max(map(len, names))
    cell = max(6.0, min(56.0, 380.0 / count))
    left = 30 + longest
    rotated = longest > cell - 4
    top = 24 + (longest * 0.8 + 8 if rotated else 18)
    changes = np.asarray(after) - np.asarray(before)
    largest = max(1, int(np.abs(changes).max()))
    labeled_every = max(1, round(14 / cell + 0.49))
    parts = []
    for i in range(count):
        y = top + i * cell
        if i % labeled_every == 0:
            parts.append(label(left - 8, y + cell / 2 + 4, names[i], text_anchor="end"))
            x = left + i * cell + cell / 2
            rotation = f"rotate(-50 {x:.1f} {top - 8:.1f})" if rotated else None
            anchor = "start" if rotated else "middle"
            parts.append(label(x, top - 8, names[i], text_anchor=anchor, transform=rotation))
        for j in range(count):
            hint = f"true {classes[i]}, predicted {classes[j]}: {before[i][j]} → {after[i][j]}"
            box = (left + j * cell, y, cell)
            parts += _change_cell(box, int(changes[i, j]), largest, hint, i == j, count)
    side = count * cell
    parts.append(label(left + side / 2, 14, "predicted", text_anchor="middle", class_="soft"))
    middle = top + side / 2
    rotation = f"rotate(-90 12 {middle:.1f})"
    vertical = {"text_anchor": "middle", "class_": "soft", "transform": rotation}
    parts.append(label(12, middle + 4, "true", **vertical))
    return picture(left + side + 60, top + side + 4, parts, title="Change of the confusion matrix")


def _change_cell(
    box: tuple[float, float, float],
    change: int,
    largest: int,
    hint: str,
    diagonal: bool,
    count: int,
) -> list[str]:
    """A cell at (x, y, size): empty if nothing changed, else shaded by |change| / `largest`."""
    x, y, size = box
    gap = 1.0 if size > 10 else 0.0
    area = {"x": x, "y": y, "width": size - gap, "height": size - gap}
    parts = [element("rect", class_="fill-faint", **area)]
    if not change:
        return parts
    share = abs(change) / largest
    color = "fill-main" if (change > 0) == diagonal else "fill-other"
    title = f"<title>{escaped(hint)}</title>"
    parts.append(element("rect", title, class_=color, fill_opacity=0.2 + 0.8 * share, **area))
    if count <= MOST_NUMBERED:
        center = (size - gap) / 2
        style = "on" if share > 0.5 else None
        text = format_change(change)
        parts.append(label(x + center, y + center + 4, text, text_anchor="middle", class_=style))
    return parts
