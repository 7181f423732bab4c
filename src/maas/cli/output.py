"""Output of the commands: data on stdout (tables, JSON), messages on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer

from maas.domain.numbers import format_number


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[
    Format,
    typer.Option("--output", "-o", help="Output format: table for people, json for programs."),
]

GREEN, YELLOW, RED = 32, 33, 31
STATE_COLUMNS = ("state", "outcome")
STATE_COLORS = {
    "ready": GREEN,
    "succeeded": GREEN,
    "ok": GREEN,
    "queued": YELLOW,
    "running": YELLOW,
    "starting": YELLOW,
    "updating": YELLOW,
    "draining": YELLOW,
    "warn": YELLOW,
    "failed": RED,
    "fail": RED,
    "lost": RED,
}
"""SGR colors of the states of deployments, replicas, jobs and checks."""


def notify(message: str) -> None:
    """Print a message for the user on stderr."""
    print(printable(message), file=sys.stderr, flush=True)  # noqa: T201


def emit(text: str) -> None:
    """Print data on stdout."""
    print(text)  # noqa: T201


def printable(text: str) -> str:
    """`text` without control characters, which a terminal would obey.

    Descriptions and reasons come from other users of the server.
    """
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def emit_json(value: Any) -> None:
    emit(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def emit_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print columns as wide as their contents; nothing is cut. No rows print the headings alone.

    On a terminal the cells of a column named `state` or `outcome` are colored.
    """
    lines = [[heading.upper() for heading in headings]]
    lines += [[cell_text(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
    colored = {i for i, heading in enumerate(headings) if heading in STATE_COLUMNS}
    if colored and not stdout_has_color():
        colored = set()
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        cells[-1] = cells[-1].rstrip()
        for i in colored:
            cells[i] = in_color(cells[i])
        emit("  ".join(cells).rstrip())


def in_color(cell: str) -> str:
    """`cell` in the color of the state it names, padding included."""
    code = STATE_COLORS.get(cell.strip())
    return cell if code is None else f"\x1b[{code}m{cell}\x1b[0m"


def stdout_has_color() -> bool:
    """Whether stdout is a terminal with colors, and NO_COLOR is not set."""
    if not sys.stdout.isatty():
        return False
    from rich.console import Console

    console = Console()
    return console.color_system is not None and not console.no_color


def when(seconds: float | None) -> str:
    """A time since the epoch in local time; '-' for none."""
    if not seconds:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def size(count: float | None) -> str:
    """Bytes with a binary unit: `312 KiB`."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def cell_text(value: object) -> str:
    """One line for a table; '-' for nothing."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return format_number(value, digits=6)
    return printable(" ".join(str(value).split()))
