"""Charts of a load test, with its levels side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from maas.domain.numbers import format_number
from maas.lifecycle.drawing.svg import Plot, label, picture, ticks
from maas.lifecycle.load_test.results import LevelResult, Percentiles
from maas.lifecycle.load_test.summary import generates_text

SIZE = (400.0, 260.0)
GAP = 24.0
TITLE_HEIGHT = 52.0


@dataclass(frozen=True)
class Panel:
    """One chart: lines over the levels."""

    title: str
    y_label: str
    lines: tuple[tuple[str, tuple[float | None, ...]], ...]
    """Name and values per level of each line; the first line has the main color."""


def panels(levels: Sequence[LevelResult]) -> list[Panel]:
    """Charts of throughput and of latency."""
    if generates_text(levels):
        return [
            _rate("Output tokens per second", "tokens/s", [f.tokens_per_s for f in levels]),
            _spread("Time to first token", [f.ttft_ms for f in levels]),
            _spread("Time per output token", [f.tpot_ms for f in levels]),
        ]
    return [
        _rate("Requests per second", "requests/s", [f.requests_per_s for f in levels]),
        _spread("Latency", [f.latency_ms for f in levels]),
    ]


def panel_svg(panel: Panel, levels: Sequence[LevelResult], *, alone: bool = False) -> str:
    """One panel as a picture; levels are equally spaced."""
    plot = _plot(panel, levels)
    return plot.draw(panel.title, alone=alone)


def load_svg(levels: Sequence[LevelResult], title: str, note: str = "") -> str:
    """All panels side by side, as a stand-alone document."""
    shown = panels(levels)
    parts = [label(16.0, 24.0, title, class_="strong")]
    if note:
        parts.append(label(16.0, 42.0, note, class_="soft"))
    for place, panel in enumerate(shown):
        x = place * (SIZE[0] + GAP)
        parts.append(
            f'<g transform="translate({x:.0f} {TITLE_HEIGHT:.0f})">'
            + label(SIZE[0] / 2, 14.0, panel.title, text_anchor="middle", class_="strong")
            + "".join(_plot(panel, levels).parts)
            + "</g>"
        )
    width = len(shown) * SIZE[0] + (len(shown) - 1) * GAP
    return picture(width, SIZE[1] + TITLE_HEIGHT, parts, title=title, alone=True)


def _rate(title: str, y_label: str, values: Sequence[float | None]) -> Panel:
    """A panel with one line, which needs no name."""
    return Panel(title, y_label, (("", tuple(values)),))


def _spread(title: str, values: Sequence[Percentiles | None]) -> Panel:
    """A panel with a line for each of the two percentiles."""
    p50 = tuple(v.p50 if v else None for v in values)
    p99 = tuple(v.p99 if v else None for v in values)
    return Panel(title, "ms", (("p50", p50), ("p99", p99)))


def _plot(panel: Panel, levels: Sequence[LevelResult]) -> Plot:
    highest = 0.0
    for _, values in panel.lines:
        highest = max([highest, *(value or 0.0 for value in values)])
    top = highest * 1.12 or 1.0
    last = len(levels) - 1
    plot = Plot(SIZE, (-0.3, max(last, 0) + 0.55), (0.0, top), margins=(26, 16, 44, 64))
    _axes(plot, panel, levels)
    above = plot.height
    for (name, line), color in zip(panel.lines, ("main", "other"), strict=False):
        points = [(float(i), v) for i, v in enumerate(line) if v is not None]
        plot.line(points, f"line {color}")
        for x, y in points:
            words = [f"{levels[int(x)].label}:", name, format_number(y), panel.y_label]
            plot.dot(x, y, f"fill-{color}", 3.5, " ".join(filter(None, words)))
        if points and name:
            x, y = points[-1]
            # A name that would overlap the previous one moves up.
            above = min(plot.y(y) + 4, above - 13)
            plot.text(plot.x(x) + 8, above, name, kind=f"text-{color} halo")
    return plot


def _axes(plot: Plot, panel: Panel, levels: Sequence[LevelResult]) -> None:
    """Axes as in `Plot.axes`, with levels instead of numbers on the horizontal one."""
    for value in ticks(*plot.domain_y, count=4):
        at = plot.y(value)
        plot.line([(plot.left, at), (plot.right, at)], "rule", plain=True)
        plot.text(plot.left - 8, at + 4, format_number(value, digits=2), anchor="end", kind="soft")
    x_label = "concurrent requests"
    for place, level in enumerate(levels):
        text = str(level.concurrency)
        if level.rate is not None:
            text, x_label = f"{level.rate:g}", "arriving requests per second"
        plot.text(plot.x(float(place)), plot.bottom + 18, text, anchor="middle", kind="soft")
    middle = (plot.left + plot.right) / 2
    plot.text(middle, plot.height - 6, x_label, anchor="middle")
    turned = (plot.top + plot.bottom) / 2
    turn = f"rotate(-90 12 {turned:.1f})"
    plot.parts.append(label(12.0, turned + 4, panel.y_label, text_anchor="middle", transform=turn))
