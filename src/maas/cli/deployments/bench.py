"""maas bench: how fast a deployment answers under load."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maas.cli.common import Format, OutputOption, client_of, emit_json, emit_table, say
from maas.domain.errors import InvalidInput

if TYPE_CHECKING:
    from maas.lifecycle.load.load_results import LoadProgress, LoadResult


def command(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Deployment.")],
    concurrency: Annotated[
        list[int] | None,
        typer.Option("--concurrency", "-c", help="Callers at once; may be repeated."),
    ] = None,
    rate: Annotated[
        list[float] | None,
        typer.Option(help="Open loop: requests that arrive per second; may be repeated."),
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(help="About as many per prompt.")] = 128,
    output_tokens: Annotated[int, typer.Option(help="At most as many per answer.")] = 64,
    seconds: Annotated[float, typer.Option(help="Of each level.")] = 10.0,
    requests: Annotated[
        int | None, typer.Option(help="So many per level, instead of seconds.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of prompts and arrivals.")] = 0,
    same_prompt: Annotated[
        bool, typer.Option("--same-prompt", help="One prompt, so that remembered prefixes count.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds that a request may take.")] = 600.0,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a picture: .html or .svg.")
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Measure how fast a deployment answers under load, as its callers see it."""
    from maas.lifecycle.load.load_results import Load

    if report is not None and report.suffix not in (".html", ".svg"):
        raise InvalidInput(f"--report must end in .html or .svg; got {report.name}", field="report")
    load = Load(
        concurrency=tuple(concurrency or ()),
        rates=tuple(rate or ()),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        seconds=seconds,
        requests=requests,
        seed=seed,
        same_prompt=same_prompt,
        timeout_s=timeout,
    )
    with display(name) as shown:
        result = client_of(ctx).bench(name, load, shown.show)
    if report is not None:
        write_report(result, report)
        say(f"report: {report}")
    print_result(result, output)
    if result.interrupted:
        raise KeyboardInterrupt


def print_result(result: LoadResult, output: Format) -> None:
    from maas.lifecycle.load.summary import headings, rows

    if output is Format.JSON:
        emit_json(result.to_dict())
        return
    emit_table(headings(result.levels), rows(result.levels))
    for note in result.notes:
        say(f"note: {note}")
    if result.interrupted:
        say("stopped: this is what is known so far")


def write_report(result: LoadResult, path: Path) -> None:
    """Raises InvalidInput if the file cannot be written."""
    from maas.lifecycle.load.page import load_page, machine_text
    from maas.lifecycle.load.pictures import load_svg

    if path.suffix == ".svg":
        title = f"{result.deployment} under load ({result.model})"
        text = load_svg(result.levels, title, machine_text(result.how.get("server", {})))
    else:
        text = load_page(result)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as wrong:
        raise InvalidInput(f"{path}: {wrong.strerror or wrong}", field="report") from None


def display(name: str) -> AbstractContextManager[LoadProgressLines | LoadProgressBar]:
    """How far a load is: a bar in a terminal, else a line per level."""
    if sys.stderr.isatty():
        return LoadProgressBar(name)
    return nullcontext(LoadProgressLines(name))


class LoadProgressLines:
    def __init__(self, name: str) -> None:
        self._name = name

    def show(self, progress: LoadProgress) -> None:
        if progress.figures is not None:
            say(f"{self._name}: {_level_text(progress)}")


class LoadProgressBar(AbstractContextManager["LoadProgressBar"]):
    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[told]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(name, total=None, told="")

    def __enter__(self) -> LoadProgressBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, progress: LoadProgress) -> None:
        done = progress.level + (progress.figures is not None)
        told = _level_text(progress)
        self._bar.update(self._task, completed=done, total=progress.levels, told=told)


def _level_text(progress: LoadProgress) -> str:
    said = f"{progress.label}: {progress.requests} requests, {progress.errors} errors"
    return f"{said}, {progress.elapsed_s:.0f} s"


def register(app: typer.Typer) -> None:
    app.command("bench")(command)
