"""Pictures of an optimization, each a string of SVG for a page that has `svg.STYLE`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from maas.domain.numbers import format_change, format_number, format_range
from maas.lifecycle.drawing.svg import GLYPH, Plot, clipped, element, escaped, label, picture
from maas.lifecycle.optimize.results import Estimate

MOST_NUMBERED = 20


@dataclass(frozen=True)
class Point:
    """A candidate in the picture of quality against the objective."""

    number: int
    """Its line in the table."""
    name: str
    cost: Estimate
    """Ratio to the original, lower is better."""
    quality: Estimate
    """Higher is better if `higher_is_better` of the picture."""
    kind: str
    """original | kept | dropped"""
    chosen: bool = False
    hint: str = ""
    outside: bool = False
    """It is drawn at the edge, because it is far beyond."""

    def told(self) -> str:
        """All of it, for whoever points at it."""
        state = "the original" if self.kind == "original" else self.kind
        cost, quality = self.cost, self.quality
        return (
            f"{self.name}, {state}: cost {format_number(cost.value)} "
            f"({format_range(cost.low, cost.high)}), quality {format_number(quality.value)} "
            f"({format_range(quality.low, quality.high)})"
        )


def frontier(points: Sequence[Point], higher_is_better: bool) -> list[Point]:
    """Those that no other beats in both, cheapest first (Pareto)."""
    sign = 1 if higher_is_better else -1
    found: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost.value, -sign * p.quality.value)):
        if not found or sign * point.quality.value > sign * found[-1].quality.value:
            found.append(point)
    return found


def pareto_svg(
    points: Sequence[Point],
    labels: tuple[str, str],
    *,
    threshold: float | None,
    higher_is_better: bool = True,
) -> str:
    """Quality upward against cost to the right, with intervals; the line joins what nobody beats.

    `labels` are those of cost and quality; `threshold` is the gate's, dashed.
    """
    points = _within(points, threshold, higher_is_better)
    costs = [v for p in points for v in (p.cost.value, p.cost.low, p.cost.high)]
    heights = [v for p in points for v in (p.quality.value, p.quality.low, p.quality.high)]
    heights += [] if threshold is None else [threshold]
    room = (max(heights) - min(heights)) * 0.08 or 0.01
    wide = (max(costs) - min(costs)) * 0.06 or 0.05
    plot = Plot(
        (680.0, 400.0),
        (max(0.0, min(costs) - wide), max(costs) + wide),
        (min(heights) - room, max(heights) + room),
        margins=(18, 24, 44, 76),
    )
    plot.axes(*labels)
    if threshold is not None:
        plot.line([(plot.domain_x[0], threshold), (plot.domain_x[1], threshold)], "even")
        at = plot.y(threshold)
        plot.text(plot.right, at - 6, "gate", anchor="end", kind="soft halo")
    best = frontier([p for p in points if p.kind != "dropped"], higher_is_better)
    plot.line([(p.cost.value, p.quality.value) for p in best], "thin main")
    for point in points:
        _point(plot, point)
    _numbers(plot, points)
    return plot.draw("Quality against cost of every candidate")


def _within(
    points: Sequence[Point], threshold: float | None, higher_is_better: bool
) -> list[Point]:
    """Far worse ones moved to the edge, so that those that matter can be told apart; the numbers
    below the picture and the hint at the point keep what was measured."""
    sign = 1 if higher_is_better else -1
    kept = [p for p in points if p.kind != "dropped"]
    goods = [sign * v for p in kept for v in (p.quality.low, p.quality.value, p.quality.high)]
    goods += [] if threshold is None else [sign * threshold]
    span = max(goods) - min(goods) or 0.01
    floor = min(goods) - 2 * span
    most = max(2.0, 1.5 * max((p.cost.value for p in kept if p.cost.value <= 2), default=1.0))

    def held(value: float) -> float:
        return sign * max(sign * value, floor)

    return [
        replace(
            p,
            cost=Estimate(*(min(v, most) for v in (p.cost.value, p.cost.low, p.cost.high))),
            quality=Estimate(*(held(v) for v in (p.quality.value, p.quality.low, p.quality.high))),
            hint=p.told(),
            outside=p.cost.value > most or sign * p.quality.value < floor,
        )
        for p in points
    ]


def _point(plot: Plot, point: Point) -> None:
    dropped = point.kind == "dropped"
    color = "other" if dropped else "main"
    cost, quality = point.cost, point.quality
    plot.line([(cost.low, quality.value), (cost.high, quality.value)], f"thin {color}")
    plot.line([(cost.value, quality.low), (cost.value, quality.high)], f"thin {color}")
    hint = point.hint or point.told()
    if point.chosen:
        at = {"cx": plot.x(cost.value), "cy": plot.y(quality.value), "r": 9.0}
        plot.parts.append(element("circle", None, class_="line main", **at))
    if dropped:
        x, y = plot.x(cost.value), plot.y(quality.value)
        title = f"<title>{escaped(hint)}</title>"
        cross = f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"
        plot.parts.append(element("path", title, d=cross, class_="line other"))
    else:
        plot.dot(cost.value, quality.value, "fill-main", 4.5, hint)


def _numbers(plot: Plot, points: Sequence[Point]) -> None:
    """Beside each point its number, moved up where another one is in the way."""
    taken: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: -p.quality.value):
        x, y = plot.x(point.cost.value) + 10, plot.y(point.quality.value) + 14
        while any(abs(x - a) < 16 and abs(y - b) < 13 for a, b in taken) and y > plot.top:
            y -= 13
        taken.append((x, y))
        text = f"{point.number} (far beyond)" if point.outside else str(point.number)
        if point.outside and x > plot.right - 80:
            x -= 100
        plot.text(x, y, text, kind="strong halo" if point.chosen else "halo")


def confusion_change_svg(
    before: Sequence[Sequence[int]], after: Sequence[Sequence[int]], classes: Sequence[str]
) -> str:
    """How many rows moved into or out of each cell: blue where this is good, orange where not."""
    count = len(classes)
    names = [clipped(name, 14) for name in classes]
    cell = max(6.0, min(56.0, 380.0 / count))
    left = 30 + GLYPH * max(map(len, names))
    turned = GLYPH * max(map(len, names)) > cell - 4
    top = 24 + (GLYPH * max(map(len, names)) * 0.8 + 8 if turned else 18)
    most = max([1, *(abs(b - a) for x, y in zip(before, after, strict=True)
                     for a, b in zip(x, y, strict=True))])  # fmt: skip
    every = max(1, round(14 / cell + 0.49))
    parts = []
    for i in range(count):
        y = top + i * cell
        if i % every == 0:
            parts.append(label(left - 8, y + cell / 2 + 4, names[i], text_anchor="end"))
            x = left + i * cell + cell / 2
            turn = f"rotate(-50 {x:.1f} {top - 8:.1f})" if turned else None
            anchor = "start" if turned else "middle"
            parts.append(label(x, top - 8, names[i], text_anchor=anchor, transform=turn))
        for j in range(count):
            change = after[i][j] - before[i][j]
            hint = f"true {classes[i]}, predicted {classes[j]}: {before[i][j]} → {after[i][j]}"
            place = (left + j * cell, y, cell)
            parts += _change_cell(place, change, change / most, hint, i == j, count)
    side = count * cell
    parts.append(label(left + side / 2, 14, "predicted", text_anchor="middle", class_="soft"))
    middle = top + side / 2
    turn = f"rotate(-90 12 {middle:.1f})"
    parts.append(label(12, middle + 4, "true", text_anchor="middle", class_="soft", transform=turn))
    return picture(left + side + 60, top + side + 4, parts, title="Change of the confusion matrix")


def _change_cell(
    place: tuple[float, float, float],
    change: int,
    share: float,
    hint: str,
    diagonal: bool,
    count: int,
) -> list[str]:
    x, y, size = place
    gap = 1.0 if size > 10 else 0.0
    box = {"x": x, "y": y, "width": size - gap, "height": size - gap}
    parts = [element("rect", class_="fill-faint", **box)]
    if change:
        good = (change > 0) == diagonal
        title = f"<title>{escaped(hint)}</title>"
        kind = "fill-main" if good else "fill-other"
        parts.append(
            element("rect", title, class_=kind, fill_opacity=0.2 + 0.8 * abs(share), **box)
        )
        if count <= MOST_NUMBERED:
            text = format_change(change)
            on = "on" if abs(share) > 0.5 else None
            middle = (size - gap) / 2
            at = (x + middle, y + middle + 4)
            parts.append(label(*at, text, text_anchor="middle", class_=on))
    return parts
