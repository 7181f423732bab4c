"""maas logs: what a process of the server wrote."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from maas.cli.common import client_of, emit, say, settings_of
from maas.domain.errors import NotFound, Unavailable
from maas.storage.log_files import log_tail

if TYPE_CHECKING:
    from pathlib import Path

    from maas.client.client import Client

FOLLOW_EVERY_S = 0.5
FOLLOWED_LINES = 1000
MOST_BYTES = 64 << 20
"""Of a log that a server left, in memory."""


def command(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="A deployment, a replica, control or gateway.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many.")] = 200,
) -> None:
    """Show the log of a deployment, a replica, control or gateway; without a name, which exist.

    Without a server, the files that it left in its home are shown.
    """
    client = client_of(ctx)
    directory = settings_of(ctx).log_dir
    if name is None:
        for path in sorted(directory.glob("*.log")):
            emit(path.stem)
        return
    try:
        text = client.logs(name, lines=lines)
    except Unavailable:
        say("no server answers; this is what it left")
        emit(_left_behind(directory, name, lines))
        return
    if text:
        emit(text.rstrip("\n"))
    if follow:
        _follow(client, name, text)


def _follow(client: Client, name: str, before: str) -> None:
    while True:
        time.sleep(FOLLOW_EVERY_S)
        now = client.logs(name, lines=FOLLOWED_LINES)
        fresh = new_lines(before.splitlines(), now.splitlines())
        if fresh:
            emit("\n".join(fresh))
        before = now or before


def new_lines(before: list[str], now: list[str]) -> list[str]:
    """The lines of `now` that come after the end of `before`; both are ends of one growing log."""
    if not before:
        return now
    for end in range(len(now), 0, -1):
        known = min(end, len(before))
        if now[end - known : end] == before[-known:] and (known == len(before) or known == end):
            return now[end:]
    return now


def _left_behind(directory: Path, name: str, lines: int) -> str:
    path = directory / f"{name}.log"
    is_there = path.name == f"{name}.log" and path.parent == directory
    said = log_tail(path, lines, MOST_BYTES) if is_there else None
    if said is None:
        raise NotFound(f"there is no log of {name!r} in {directory}")
    return said.decode(errors="replace").rstrip("\n")


def register(app: typer.Typer) -> None:
    app.command("logs")(command)
