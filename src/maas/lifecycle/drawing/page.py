"""Self-contained HTML pages: head, style, and building blocks."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from maas.lifecycle.drawing.svg import STYLE, element, escaped

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Content security policy: no request and no script, whatever a name or description contains."""

PAGE_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5d6876;--rule:#d9dee5;--faint:#f4f6f9;
--paper:#ffffff;--main:#2f5fb3;--good:#1f7a4d;--bad:#b3261e}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa5b4;--rule:#323b48;
--faint:#1d2530;--paper:#171d26;--main:#7ba6f0;--good:#6cc397;--bad:#f2938c}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.55 system-ui,-apple-system,
"Segoe UI",Roboto,sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1040px;margin:0 auto;padding:48px 32px 72px}
header p{margin:0;max-width:70ch}
.kicker{color:var(--soft);font-size:13px}
h1{margin:4px 0 10px;font-size:34px;line-height:1.15;letter-spacing:-.02em;overflow-wrap:anywhere}
h2{margin:56px 0 6px;padding-top:20px;border-top:1px solid var(--rule);font-size:21px;
letter-spacing:-.01em}
h3{margin:28px 0 8px;font-size:15px}
h2+p,h3+p{margin-top:0}
p.note,figcaption,.soft{color:var(--soft)}
p.note{max-width:80ch}
header p.note{margin-top:12px;max-width:none}
.tiles{display:flex;flex-wrap:wrap;gap:1px;
margin:32px 0 0;padding:0;list-style:none;background:var(--rule);border:1px solid var(--rule);
border-radius:10px;overflow:hidden}
.tiles li{flex:1 1 168px;background:var(--paper);padding:16px 18px 14px}
.tiles b{display:block;font-size:30px;font-weight:600;line-height:1.2;letter-spacing:-.02em}
.tiles span{display:block;color:var(--soft);font-size:13px}
.tiles .name{color:var(--ink)}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));
gap:28px 40px;align-items:start}
figure{margin:20px 0 0;min-width:0}
figure h3{margin:0 0 10px}
figure svg,figure img{display:block;max-width:100%;height:auto}
figure img{image-rendering:pixelated;border:1px solid var(--rule);border-radius:4px}
figcaption{margin-top:10px;font-size:13px;max-width:62ch}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:14px;margin:0}
th,td{padding:6px 20px 6px 0;text-align:left;vertical-align:top;border-bottom:1px solid
var(--rule)}
thead th{color:var(--soft);font-weight:500;font-size:13px;white-space:nowrap}
tbody th{font-weight:500}
td.number,th.number{text-align:right;white-space:nowrap}
th small{display:block;color:var(--soft);font-weight:400;font-size:12px;line-height:1.3}
table.facts th{color:var(--soft);font-weight:400;white-space:nowrap}
table.facts td,.code{overflow-wrap:anywhere}
.code{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
details .wide{margin-top:8px}
details{margin-top:10px;font-size:14px}
summary{cursor:pointer;color:var(--main);font-size:13px}
.good{color:var(--good)}.bad{color:var(--bad)}
footer{margin-top:64px;padding-top:16px;border-top:1px solid var(--rule);color:var(--soft);
font-size:13px}
@media print{main{padding:0}h2{break-after:avoid}figure,tr{break-inside:avoid}}
@media (max-width:600px){main{padding:28px 18px 48px}h1{font-size:27px}}
""".strip()

Cell = str | tuple[str, str]
"""Escaped HTML, or (HTML, class of the cell)."""


def page(title: str, content: Sequence[str]) -> str:
    """A complete document; `content` is HTML, `title` is text."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{escaped(title)}</title>\n<style>\n{PAGE_STYLE}\n{STYLE}\n</style>\n</head>\n"
        f"<body>\n<main>\n{_lines(content)}\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *content: str, note: str = "") -> str:
    """A heading with its content; empty if there is no content. `title` and `note` are text."""
    if not any(content):
        return ""
    lead = ""
    if note:
        lead = f'<p class="note">{escaped(note)}</p>'
    inside = _lines(content)
    return f"<section>\n<h2>{escaped(title)}</h2>\n{lead}\n{inside}\n</section>"


def figure(title: str, drawing: str, caption: str, numbers: str = "") -> str:
    """A picture with heading, caption and a table of its numbers."""
    more = ""
    if numbers:
        more = f"<details><summary>Numbers</summary>{numbers}</details>"
    return (
        f"<figure><h3>{escaped(title)}</h3>{drawing}"
        f"<figcaption>{escaped(caption)}</figcaption>{more}</figure>"
    )


def pair(*figures: str) -> str:
    """Figures side by side if the page is wide enough."""
    inside = _lines(figures)
    if not inside:
        return ""
    return f'<div class="pair">{inside}</div>'


def table(head: Sequence[Cell], rows: Sequence[Sequence[Cell]], *, caption: str = "") -> str:
    """A table whose first column names its rows. Cells are HTML; `caption` is text."""
    if not rows:
        return ""
    top = "".join(_cell("th", cell, scope="col") for cell in head)
    lines = "".join(map(_table_row, rows))
    attribute = ""
    if caption:
        attribute = f' aria-label="{escaped(caption)}"'
    return (
        f'<div class="wide"><table{attribute}><thead><tr>{top}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _table_row(cells: Sequence[Cell]) -> str:
    first, *rest = cells
    html = _cell("th", first, scope="row")
    for cell in rest:
        html += _cell("td", cell)
    return f"<tr>{html}</tr>"


def facts(rows: Sequence[tuple[str, str]], *, caption: str) -> str:
    """A table of names and values; names are text, values HTML."""
    if not rows:
        return ""
    lines = ""
    for name, value in rows:
        lines += f'<tr><th scope="row">{escaped(name)}</th><td>{value}</td></tr>'
    inside = f'<table class="facts" aria-label="{escaped(caption)}"><tbody>{lines}</tbody></table>'
    return f'<div class="wide">{inside}</div>'


def number(text: str) -> Cell:
    """A cell that is aligned to the right."""
    return text, "number"


def number_row(name: str, *values: str) -> list[Cell]:
    """A row of texts: its name, and values that are aligned to the right."""
    row: list[Cell] = [escaped(name)]
    for value in values:
        row.append(number(escaped(value)))
    return row


def embedded_png(content: bytes, description: str, width: int) -> str:
    """An `<img>` with its bytes inline; `description` is its alternative text."""
    coded = base64.b64encode(content).decode()
    return element("img", src=f"data:image/png;base64,{coded}", alt=description, width=width)


def _lines(parts: Sequence[str]) -> str:
    """The parts that are not empty, each on a line of its own."""
    return "\n".join(filter(None, parts))


def _cell(tag: str, cell: Cell, scope: str | None = None) -> str:
    if isinstance(cell, str):
        return element(tag, cell, scope=scope)
    text, kind = cell
    return element(tag, text, scope=scope, class_=kind)
