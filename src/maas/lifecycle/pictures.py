"""Charts of explanations and training: terminal bars, SVG bars, heat maps, loss curves."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from maas.domain.errors import InvalidInput
from maas.domain.numbers import format_change, format_number
from maas.lifecycle.drawing.page import Cell, embedded_png, figure, number, page, table
from maas.lifecycle.drawing.png import Pixels, enlarged, png
from maas.lifecycle.drawing.svg import GLYPH, Plot, clipped, element, escaped, label, picture
from maas.lifecycle.explain import Attribution, Explanation
from maas.lifecycle.metrics.metrics import Floats

BLUE, ORANGE = (33, 102, 172), (196, 98, 45)
"""Colors of negative and positive contributions; color-blind readers can distinguish them."""
MOST_LINES = 50
EIGHTHS = " ▏▎▍▌▋▊▉█"


def subject(explanation: Explanation) -> str:
    """Name of the explained output, for example `probabilities of class 7`."""
    e = explanation
    if e.label is not None:
        return f"{e.output} of {e.label}"
    return e.output if e.target == 0 else f"{e.output}[{e.target}]"


def terminal_bars(
    explanation: Explanation, *, width: int = 80, count: int = 12, color: bool = False
) -> str:
    """The largest attributions as lines of at most `width` columns; `color` adds ANSI colors.

    Control characters in names become `?`, so that a name cannot control the terminal.
    """
    e = explanation
    units = f" {_printable(e.units)}" if e.units else ""
    head = (
        f"{_printable(subject(e))} is {format_number(e.prediction)}{units}; the baseline is "
        f"{format_number(e.baseline)}{units}, a difference of "
        f"{format_change(e.prediction - e.baseline)}{units}"
    )
    shown = [a for a in e.top(count) if a.shapley]
    columns = [
        [clipped(_printable(a.name), min(24, width // 4)) for a in shown],
        [clipped(_value_text(a), min(24, width // 4)) for a in shown],
        [format_change(a.shapley, digits=3) for a in shown],
        [f"± {format_number(a.standard_error, digits=2)}" if _is_sampled(a) else "" for a in shown],
    ]
    wide = [max([0, *map(len, column)]) for column in columns]
    longest = max([abs(a.shapley) for a in shown], default=1.0)
    room = max(4, width - sum(wide) - 2 - 3 * 2 - 1)
    lines = textwrap.wrap(head, max(20, width))
    for a, name, value, moved, error in zip(shown, *columns, strict=True):
        bar = _blocks(abs(a.shapley) / longest * room)
        if color:
            bar = f"\x1b[{33 if a.shapley > 0 else 34}m{bar}\x1b[0m"
        words = f"{name:<{wide[0]}}  {value:<{wide[1]}}  {moved:>{wide[2]}} {error:<{wide[3]}}"
        lines.append(f"  {words}  {bar}")
    rest = [a.shapley for a in e.top()[len(shown) :] if a.shapley]
    if rest:
        lines.append(f"  and {len(rest)} more with a total of {format_change(sum(rest))}")
    how = (
        f"{e.method}, {e.rows:,} rows in {e.calls:,} batches, additivity error "
        f"{format_number(abs(e.additivity_error), digits=2)}, seed {e.seed}"
    )
    lines += [f"  {line}" for line in textwrap.wrap(how, max(20, width - 2))]
    return "\n".join(lines)


def _is_sampled(a: Attribution) -> bool:
    """Whether the standard error is more than a rounding error."""
    return a.standard_error > 1e-9 * abs(a.shapley)


def _value_text(a: Attribution) -> str:
    return f"= {format_number(a.value)}" + (f" {_printable(a.units)}" if a.units else "")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _blocks(length: float) -> str:
    whole, part = divmod(round(length * 8), 8)
    return "█" * whole + (EIGHTHS[part] if part else "")


def explanation_svg(explanation: Explanation, *, count: int = 12, alone: bool = True) -> str:
    """The largest attributions as bars with standard errors; orange is positive, blue negative.

    `alone` makes a stand-alone SVG document; otherwise the SVG is for a page with `svg.STYLE`.
    """
    shown = [a for a in explanation.top(count) if a.shapley]
    row, top, width = 26.0, 8.0, 520.0
    names = [clipped(f"{a.name} {_value_text(a)}", 30) for a in shown]
    left = 12 + GLYPH * max([8, *map(len, names)])
    numbers = 64.0
    low = min([0.0, *(a.shapley - a.standard_error for a in shown)])
    high = max([0.0, *(a.shapley + a.standard_error for a in shown)])
    scale = (width - left - numbers * (1 + (low < 0))) / ((high - low) or 1.0)
    zero = left + numbers * (low < 0) - low * scale
    parts = [element("line", x1=zero, x2=zero, y1=top, y2=top + row * len(shown), class_="rule")]
    for index, a in enumerate(shown):
        y = top + row * index
        tip, adds = zero + a.shapley * scale, a.shapley > 0
        end = zero + (a.shapley + math.copysign(a.standard_error, a.shapley)) * scale
        error = format_number(a.standard_error, digits=2)
        title = f"{a.name}: {format_number(a.shapley, digits=3)} ± {error}"
        bar = element(
            "rect",
            f"<title>{escaped(title)}</title>",
            x=min(zero, tip),
            y=y + 5,
            width=max(1.0, abs(tip - zero)),
            height=row - 10,
            rx=2.0,
            class_="fill-other" if adds else "fill-main",
        )
        parts += [label(left - 10, y + 17, names[index], text_anchor="end"), bar]
        if _is_sampled(a):
            start = zero + (a.shapley - math.copysign(a.standard_error, a.shapley)) * scale
            middle = y + row / 2
            parts.append(
                element("line", x1=start, x2=end, y1=middle, y2=middle, class_="rule error")
            )
        number = format_change(a.shapley, digits=3)
        beside = max(tip, end) + 6 if adds else min(tip, end) - 6
        anchor = "start" if adds else "end"
        parts.append(label(beside, y + 17, number, text_anchor=anchor, class_="soft"))
    title = f"Shapley values of {subject(explanation)}"
    return picture(width, top * 2 + row * len(shown), parts, title=title, alone=alone)


def diverging(values: Floats) -> Pixels:
    """Colors […, 3] of values in [-1, 1]: blue, white at 0, orange."""
    share = np.clip(np.abs(values), 0, 1)[..., None]
    ends = np.where(values[..., None] > 0, np.array(ORANGE), np.array(BLUE))
    pixels: Pixels = np.rint(255 + (ends - 255) * share).astype(np.uint8)
    return pixels


def heat_map_png(
    explanation: Explanation, image: npt.ArrayLike | None = None, *, side: int = 320
) -> bytes:
    """A PNG of the image and its heat map; orange contributions are positive, blue negative.

    `image` is the explained row of the image input: [height, width], [channels, height, width],
    [height, width, channels] or flat; None: the map only. The PNG is about `side` pixels high.
    """
    heat = explanation.heat()
    strongest = np.abs(heat).max()
    colors = diverging(heat / strongest if strongest else heat)
    factor = max(1, side // max(heat.shape))
    halves = [enlarged(colors, factor)]
    if image is not None:
        gap = np.full((len(halves[0]), 12, 3), 255, np.uint8)
        halves = [enlarged(_shown(explanation, image), factor), gap, *halves]
    return png(np.concatenate(halves, axis=1))


def _shown(explanation: Explanation, image: npt.ArrayLike) -> Pixels:
    """The image as pixels [height, width, 3], scaled from its smallest to its largest value."""
    layout = explanation.image
    if layout is None:
        raise InvalidInput("this explanation is not of an image", field="image")
    values = np.asarray(image, dtype=np.float64)
    if values.size != math.prod(layout.shape):
        raise InvalidInput(
            f"the image must have {math.prod(layout.shape)} values; got {values.size}",
            field="image",
        )
    values = values.reshape(layout.shape)
    if layout.layout == "hw":
        values = values[:, :, None]
    elif layout.layout == "chw":
        values = values.transpose(1, 2, 0)
    colors = values[:, :, :3] if layout.channels >= 3 else values[:, :, :1].repeat(3, axis=2)
    low, high = colors.min(), colors.max()
    pixels: Pixels = np.rint((colors - low) / ((high - low) or 1.0) * 255).astype(np.uint8)
    return pixels


def loss_curves_svg(
    curves: Mapping[str, Sequence[float | None]],
    *,
    best_epoch: int | None = None,
    alone: bool = True,
) -> str:
    """Training and validation loss over the epochs.

    `curves` has `loss` and optionally `val_loss`, one number per epoch. `best_epoch` counts from
    1. `alone` makes a stand-alone SVG document; otherwise the SVG is for a page with `svg.STYLE`.
    """
    lines = []
    for name, kind, text in (("loss", "main", "training"), ("val_loss", "other", "validation")):
        points = [
            (epoch, float(v))
            for epoch, v in enumerate(curves.get(name) or (), start=1)
            if v is not None and math.isfinite(v)
        ]
        if points:
            lines.append((points, kind, text))
    values = [v for points, _, _ in lines for _, v in points] or [0.0, 1.0]
    low, high = min(values), max(values)
    log = low > 0 and high / low > 30
    last = max([2.0, *(points[-1][0] for points, _, _ in lines)])
    span = (low / 1.15, high * 1.15) if log else (min(0.0, low), high * 1.05 if high > 0 else 0.0)
    plot = Plot((520, 300), (1, last), span, margins=(14, 78, 44, 60), log_y=log)
    plot.axes("epoch", "loss, logarithmic" if log else "loss", whole_x=True)
    if best_epoch is not None and 1 <= best_epoch <= last:
        at = plot.x(best_epoch)
        plot.line([(at, plot.top), (at, plot.bottom)], "even", plain=True)
        near_end = best_epoch > last * 0.8
        anchor, shift = ("end", -6) if near_end else ("start", 6)
        plot.text(at + shift, plot.top + 10, f"best: {best_epoch}", anchor=anchor, kind="soft halo")
    heights: list[float] = []
    for points, kind, text in lines:
        if len(points) > 1:
            plot.line(points, f"line {kind}")
        else:
            plot.dot(*points[0], f"fill-{kind}")
        y = plot.y(points[-1][1])
        if heights and abs(y - heights[0]) < 14:
            y = heights[0] + (14 if y >= heights[0] else -14)
        heights.append(y)
        plot.text(plot.right + 8, y + 4, text, kind=f"text-{kind}")
    return plot.draw("Loss over the epochs", alone=alone)


def explanation_figure(
    explanation: Explanation, *, image: npt.ArrayLike | None = None, title: str = ""
) -> str:
    """One explained row as HTML for `page`: bars or a heat map, numbers, and method."""
    e = explanation
    units = f" {e.units}" if e.units else ""
    what = subject(e)
    words = (
        f"{what} is {format_number(e.prediction)}{units}; the baseline, the mean over the "
        f"background rows, is {format_number(e.baseline)}{units}. Orange contributions are "
        "positive, blue negative."
    )
    if e.image is not None:
        side = 240 if image is None else 492
        largest = ", ".join(a.name for a in e.top(3) if a.shapley)
        shown = "the image and a map" if image is not None else "a map"
        alt = f"Heat map of {what}: {shown} of Shapley values; the largest are {largest}."
        drawing = embedded_png(heat_map_png(e, image), alt, side)
    else:
        drawing = explanation_svg(e, alone=False)
        if e.permutations:
            words += " Thin lines are standard errors."
    lines: list[list[Cell]] = [
        [
            escaped(a.name),
            number(escaped(_value_text(a).removeprefix("= "))),
            number(escaped(format_number(a.background))),
            number(escaped(format_change(a.shapley, digits=3))),
            number(escaped(format_number(a.standard_error, digits=2))),
        ]
        for a in e.top(MOST_LINES)
    ]
    columns = ("Value", "Background mean", "Shapley value", "Standard error")
    head: list[Cell] = ["Input", *map(number, columns)]
    zeros = " (all zeros, the default)" if e.background == "zeros" else ""
    how = (
        f"Method: {e.method}, {e.rows:,} model rows in {e.calls:,} batches, {e.background_rows:,} "
        f"background rows{zeros}, seed {e.seed}; additivity error "
        f"{format_number(abs(e.additivity_error), digits=2)}."
    )
    numbers = table(head, lines, caption=f"Shapley values of {what}")
    return figure(title or what, drawing, f"{words} {how}", numbers)


def explanation_html(explanation: Explanation, *, image: npt.ArrayLike | None = None) -> str:
    """A self-contained page about one explained row."""
    what = subject(explanation)
    heading = (
        f"<header><h1>Why {escaped(what)} is {format_number(explanation.prediction)}</h1></header>"
    )
    return page(
        f"Why {what}",
        [heading, explanation_figure(explanation, image=image, title="Shapley values")],
    )
