"""maas pull: a model from a hub, an address, a bucket, a package or a path becomes a version."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from maas.cli.common import (
    Format,
    OutputOption,
    client_of,
    emit_json,
    emit_table,
    say,
    settings_of,
)

if TYPE_CHECKING:
    from maas.lifecycle.sources.base import Progress


def command(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="A name of `maas models --catalog`, hf://ORG/REPO[@REV], https://…, "
            "s3://, gs:// or az://BUCKET/KEY, package://PACKAGE/FILE, or a path."
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Model; default: the name in the catalog.")
    ] = None,
    file: Annotated[str | None, typer.Option(help="Which file, where there are several.")] = None,
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="Of the file; needed for https://.")
    ] = None,
    license: Annotated[  # noqa: A002 - the option's name
        str | None, typer.Option(help="Instead of what the source says.")
    ] = None,
    description: Annotated[str, typer.Option(help="What it is for, in a sentence.")] = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """Publish a model from a hub, an address, a bucket or a package.

    This machine fetches it; the same command goes on where an earlier one stopped.
    """
    client = client_of(ctx, timeout=300)
    try:
        with _display() as progress:
            found = client.pull(
                source,
                name,
                file=file,
                sha256=sha256,
                license=license,
                description=description,
                progress=progress,
                configured=settings_of(ctx),
            )
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        raise
    if output is Format.JSON:
        emit_json(found.to_dict())
        return
    if not found.published.created:
        say(f"{found} is there already and is the same")
    who = f" (says {found.license_from})" if found.license else ""
    say(f"license: {found.license or 'unknown; ask whom you have it from'}{who}")
    published = found.published
    emit_table(
        ("model", "version", "task", "runtime", "license", "digest"),
        [
            (
                published.model,
                published.number,
                found.task,
                found.runtime,
                found.license or "unknown",
                published.digest[:12],
            )
        ],
    )
    say(f"next: `maas deploy {published.model}`")


def _display() -> AbstractContextManager[Progress]:
    return _Bar() if sys.stderr.isatty() else nullcontext(_nothing)


def _nothing(name: str, done: int, total: int | None) -> None:
    """A pipe or a file gets no progress."""


class _Bar(AbstractContextManager["Progress"]):
    """For a terminal: a line with bytes, speed and the time that is left, per file."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._lines: dict[str, int] = {}

    def __enter__(self) -> Progress:
        self._bar.start()
        return self.show

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, name: str, done: int, total: int | None) -> None:
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = int(self._bar.add_task(name, total=total))
        self._bar.update(line, completed=done, total=total)  # type: ignore[arg-type]


def register(app: typer.Typer) -> None:
    app.command("pull")(command)
