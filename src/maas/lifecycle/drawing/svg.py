"""SVG without a library: elements with escaped text, and a plot with two axes."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

Points = Sequence[tuple[float, float]]

STYLE = """
.pic{--ink:#1c2430;--soft:#5d6876;--rule:#d9dee5;--faint:#eef1f5;--paper:#ffffff;
--main:#2f5fb3;--other:#c4622d;font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
@media (prefers-color-scheme:dark){.pic{--ink:#e6e9ee;--soft:#9aa5b4;--rule:#323b48;
--faint:#222a35;--paper:#171d26;--main:#7ba6f0;--other:#e8935f}}
.pic text{fill:var(--ink)}.pic .soft{fill:var(--soft)}.pic .strong{font-weight:600}
.pic .halo{paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}
.pic .on{fill:var(--paper)}.pic .rule{stroke:var(--rule);stroke-width:1;fill:none}
.pic .even{stroke:var(--soft);stroke-width:1;stroke-dasharray:3 4;fill:none}
.pic .main{stroke:var(--main)}.pic .other{stroke:var(--other)}
.pic .line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.pic .thin{fill:none;stroke-width:1;stroke-opacity:.45;stroke-linejoin:round}
.pic .whisker{stroke-width:2;stroke-linecap:round;stroke-opacity:.5}
.pic .error{stroke:var(--ink);stroke-width:1;stroke-opacity:.7}
.pic .fill-main{fill:var(--main)}.pic .fill-other{fill:var(--other)}
.pic .dust{fill:var(--main);fill-opacity:.45}
.pic .fill-faint{fill:var(--faint)}.pic .fill-rule{fill:var(--rule)}
.pic .text-main{fill:var(--main)}.pic .text-other{fill:var(--other)}
""".strip()
"""Style of every picture, inside a page or inside a stand-alone SVG document."""

GLYPH = 7.2
"""Upper estimate of a character's mean width at 12 px, in pixels."""


def escaped(text: object) -> str:
    """`text` as XML and HTML text or attribute value; invalid characters become `\ufffd`."""
    printable = "".join(
        c if (c >= " " or c in "\t\n") and c not in "\ufffe\uffff" else "\ufffd" for c in str(text)
    )
    # A lone surrogate cannot be encoded as UTF-8.
    printable = printable.encode("utf-8", "replace").decode("utf-8")
    return html.escape(printable, quote=True)


def clipped(text: object, characters: int) -> str:
    """`text` in at most `characters` characters, with an ellipsis if it is cut."""
    whole = str(text)
    return whole if len(whole) <= characters else whole[: max(1, characters - 1)] + "…"


def element(tag: str, text: str | None = None, /, **attributes: object) -> str:
    """`<tag …>` with escaped attribute values; `class_` stands for `class`, `_` for `-`."""
    listed = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_plain(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return f"<{tag}{listed}/>" if text is None else f"<{tag}{listed}>{text}</{tag}>"


def label(x: float, y: float, text: object, **attributes: object) -> str:
    return element("text", escaped(text), x=x, y=y, **attributes)


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return escaped(value)


def picture(
    width: float, height: float, parts: Sequence[str], *, title: str, alone: bool = False
) -> str:
    """A complete `<svg>`; `alone` makes it a stand-alone document with its own style."""
    content = f"<title>{escaped(title)}</title>"
    if alone:
        content += f'<style>{STYLE}</style><rect width="100%" height="100%" fill="var(--paper)"/>'
    return element(
        "svg",
        content + "".join(parts),
        xmlns="http://www.w3.org/2000/svg" if alone else None,
        class_="pic",
        viewBox=f"0 0 {_plain(float(width))} {_plain(float(height))}",
        width=float(width),
        role="img",
        aria_label=title,
    )


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers within [low, high], in steps of 1, 2 or 5 times a power of 10."""
    span = high - low
    if span <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= count)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def tick_text(value: float, step: float) -> str:
    size, sign = abs(value), "-" if value < 0 else ""
    if size >= 1e6 or 0 < size < 1e-3:
        return f"{sign}{size:.0e}"
    places = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 2
    return f"{sign}{size:,.{places}f}"


class Plot:
    """A canvas with two axes, which collects SVG parts."""

    def __init__(
        self,
        size: tuple[float, float],
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        margins: tuple[float, float, float, float] = (14, 16, 44, 52),
        log_y: bool = False,
    ) -> None:
        """`margins` are top, right, bottom, left; `x` and `y` are (low, high)."""
        self.width, self.height = size
        self.top, right, bottom, self.left = margins
        self.right, self.bottom = self.width - right, self.height - bottom
        self.domain_x, self.domain_y = _open(x), y if log_y else _open(y)
        self.log_y = log_y
        self.parts: list[str] = []

    def x(self, value: float) -> float:
        low, high = self.domain_x
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self.domain_y
        if self.log_y:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    def axes(self, x_label: str, y_label: str, *, whole_x: bool = False) -> None:
        """Draws both axes, with grid lines at the ticks of the vertical one."""
        up = self._log_ticks() if self.log_y else ticks(*self.domain_y)
        for value in up:
            at = self.y(value)
            self.line([(self.left, at), (self.right, at)], "rule", plain=True)
            step = value if self.log_y else _step(up)
            self.text(self.left - 8, at + 4, tick_text(value, step), anchor="end", kind="soft")
        self.across(x_label, whole=whole_x)
        middle = (self.top + self.bottom) / 2
        turn = f"rotate(-90 12 {middle:.1f})"
        self.parts.append(label(12.0, middle + 4, y_label, text_anchor="middle", transform=turn))

    def across(self, x_label: str, *, whole: bool = False) -> None:
        """Draws the horizontal axis only."""
        positions = ticks(*self.domain_x)
        if whole:
            positions = [t for t in positions if t == round(t)]
        for value in positions:
            text = tick_text(value, _step(positions))
            self.text(self.x(value), self.bottom + 18, text, anchor="middle", kind="soft")
        middle = (self.left + self.right) / 2
        self.text(middle, self.height - 6, x_label, anchor="middle")

    def _log_ticks(self) -> list[float]:
        low, high = (math.log10(v) for v in self.domain_y)
        powers = range(math.floor(low), math.ceil(high) + 1)
        steps = (1, 2, 5) if high - low < 2.5 else (1,)
        values = [m * 10.0**p for p in powers for m in steps]
        return [v for v in values if self.domain_y[0] <= v <= self.domain_y[1]]

    def line(self, points: Points, kind: str, *, plain: bool = False) -> None:
        """Draws a line through points of the data, or of the canvas if `plain`."""
        at = points if plain else [(self.x(a), self.y(b)) for a, b in points]
        joined = " ".join(f"{_plain(float(a))},{_plain(float(b))}" for a, b in at)
        self.parts.append(element("polyline", points=joined, class_=kind, fill="none"))

    def text(self, x: float, y: float, text: str, *, anchor: str = "start", kind: str = "") -> None:
        self.parts.append(label(float(x), float(y), text, text_anchor=anchor, class_=kind or None))

    def dot(self, x: float, y: float, kind: str, radius: float = 4.0, hint: str = "") -> None:
        title = f"<title>{escaped(hint)}</title>" if hint else None
        self.parts.append(
            element("circle", title, cx=self.x(x), cy=self.y(y), r=radius, class_=kind)
        )

    def draw(self, title: str, *, alone: bool = False) -> str:
        return picture(self.width, self.height, self.parts, title=title, alone=alone)


def _open(span: tuple[float, float]) -> tuple[float, float]:
    """`span`, widened if it is empty, so that positions can be computed."""
    low, high = span
    if high > low:
        return low, high
    margin = abs(low) * 0.1 or 0.5
    return low - margin, high + margin


def _step(values: Sequence[float]) -> float:
    return abs(values[1] - values[0]) if len(values) > 1 else abs(values[0]) if values else 1.0
