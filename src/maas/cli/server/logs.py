"""maas logs: the logs of the processes of the server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from maas.cli.common import client_of, settings_of
from maas.cli.completion import deployment_names
from maas.cli.output import emit, notify
from maas.domain.errors import NotFound, Unavailable
from maas.domain.names import did_you_mean
from maas.storage.log_files import log_tail

if TYPE_CHECKING:
    from pathlib import Path

    from maas.client.client import Client

FOLLOW_EVERY_S = 0.5
FOLLOWED_LINES = 1000
MAX_BYTES = 64 << 20
"""Largest part of a log file that is read into memory."""


def command(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A deployment, a replica, control or gateway (default: list the logs).",
            autocompletion=deployment_names,
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new lines until Ctrl-C.")
    ] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Number of lines.")] = 200,
) -> None:
    """Show the log of a deployment, a replica, control or gateway.

    Without a name, list the logs. Without a server, show the log files in its home.
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
        text = _log_file(directory, name, lines)
        notify("no server answers; this is its log file")
        emit(text)
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
    """The lines of `now` after the end of `before`; both are ends of the same growing log."""
    if not before:
        return now
    for end in range(len(now), 0, -1):
        overlap = min(end, len(before))
        is_whole = overlap in (len(before), end)
        if is_whole and now[end - overlap : end] == before[-overlap:]:
            return now[end:]
    return now


def _log_file(directory: Path, name: str, lines: int) -> str:
    path = directory / f"{name}.log"
    is_inside = path.name == f"{name}.log" and path.parent == directory
    tail = log_tail(path, lines, MAX_BYTES) if is_inside else None
    if tail is None:
        names = [file.stem for file in directory.glob("*.log")]
        raise NotFound(f"there is no log of {name!r} in {directory}{did_you_mean(name, names)}")
    return tail.decode(errors="replace").rstrip("\n")


def register(app: typer.Typer) -> None:
    app.command("logs")(command)
