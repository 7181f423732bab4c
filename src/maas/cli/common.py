"""What every command needs: settings and client from the flags, and output in two forms."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from maas import settings

if TYPE_CHECKING:
    from maas.client.client import Client


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[
    Format, typer.Option("--output", "-o", help="table for people, json for machines.")
]


@dataclass(frozen=True)
class Flags:
    """The flags before the command."""

    home: str | None = None
    base_url: str | None = None


def settings_of(ctx: typer.Context, **more: Any) -> settings.Settings:
    """The settings with this command line's flags; `more` as `server__port=9000`."""
    flags: Flags = ctx.obj or Flags()
    dotted = {name.replace("__", "."): value for name, value in more.items()}
    return settings.load(
        {"home": dotted.pop("home", None) or flags.home, "client.base_url": flags.base_url} | dotted
    )


def client_of(ctx: typer.Context, timeout: float = 30.0, retries: int = 2) -> Client:
    """A client for the server that settings and flags name."""
    from maas.client.client import Client

    found = settings_of(ctx)
    return Client(found.base_url, found.api_key, timeout=timeout, retries=retries)


def say(message: str) -> None:
    """A message to the person, on stderr."""
    print(printable(message), file=sys.stderr, flush=True)  # noqa: T201


def emit(text: str) -> None:
    """Data, on stdout."""
    print(text)  # noqa: T201


def printable(text: str) -> str:
    """`text` without what a terminal obeys: people write descriptions, and others read them."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def emit_json(value: Any) -> None:
    emit(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def emit_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns as wide as their contents, so that nothing is cut; the headings alone if empty."""
    lines = [[h.upper() for h in headings]]
    lines += [[_cell(c) for c in row] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
    for line in lines:
        emit("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())


def when(seconds: float | None) -> str:
    """A time since the epoch in local time; '-' for none."""
    if not seconds:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def size(count: float | None) -> str:
    """Bytes for people: `312 KiB`."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(" ".join(str(value).split()))
