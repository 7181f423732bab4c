"""maas bench: measure latency and throughput of a deployment under load."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maas.cli.common import UsageError, client_of
from maas.cli.completion import DeploymentArgument
from maas.cli.output import Format, OutputOption, emit_json, emit_table, notify
from maas.domain.errors import InvalidInput
from maas.domain.numbers import format_number

if TYPE_CHECKING:
    from maas.lifecycle.load_test.results import LoadProgress, LoadResult


def command(
    ctx: typer.Context,
    name: DeploymentArgument,
    concurrency: Annotated[
        list[int] | None,
        typer.Option(
            "--concurrency",
            "-c",
            help="Closed loop: number of concurrent requests; may be repeated for more levels.",
        ),
    ] = None,
    rate: Annotated[
        list[float] | None,
        typer.Option(
            help="Open loop: requests that arrive per second; may be repeated for more levels."
        ),
    ] = None,
    prompt_tokens: Annotated[
        int, typer.Option(help="Approximate length of a prompt in tokens.")
    ] = 128,
    output_tokens: Annotated[int, typer.Option(help="Maximum length of an answer in tokens.")] = 64,
    seconds: Annotated[float, typer.Option(help="Seconds per load level.")] = 10.0,
    requests: Annotated[
        int | None, typer.Option(help="Number of requests per load level, instead of --seconds.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the prompts and the arrival times.")] = 0,
    same_prompt: Annotated[
        bool,
        typer.Option(
            "--same-prompt",
            help="Send the same prompt each time, to use the prefix cache.",
        ),
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds until a request times out.")] = 600.0,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a report: .html or .svg.")
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Measure latency and throughput of a deployment under load, as its clients see them."""
    from maas.lifecycle.load_test.results import Load

    if report is not None and report.suffix not in (".html", ".svg"):
        raise UsageError(f"--report must end in .html or .svg; got {report.name}", field="report")
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
    with progress_display(name) as display:
        result = client_of(ctx).bench(name, load, display.show)
    if report is not None:
        write_report(result, report)
        notify(f"report: {report}")
    print_result(result, output)
    if result.interrupted:
        raise KeyboardInterrupt


def print_result(result: LoadResult, output: Format) -> None:
    from maas.lifecycle.load_test.summary import headings, rows

    if output is Format.JSON:
        emit_json(result.to_dict())
        return
    emit_table(headings(result.levels), rows(result.levels))
    for note in result.notes:
        notify(f"note: {note}")
    if result.interrupted:
        notify("interrupted: these are the figures so far")


def write_report(result: LoadResult, path: Path) -> None:
    """Write the report. Raises InvalidInput if the file cannot be written."""
    from maas.lifecycle.load_test.page import load_page, machine_text
    from maas.lifecycle.load_test.pictures import load_svg

    if path.suffix == ".svg":
        title = f"{result.deployment} under load ({result.model})"
        text = load_svg(result.levels, title, machine_text(result.how.get("server", {})))
    else:
        text = load_page(result)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror or error}", field="report") from None


def progress_display(name: str) -> AbstractContextManager[LoadProgressLines | LoadProgressBar]:
    """Progress of a load: a bar on a terminal, else a line per level."""
    if sys.stderr.isatty():
        return LoadProgressBar(name)
    return nullcontext(LoadProgressLines(name))


class LoadProgressLines:
    def __init__(self, name: str) -> None:
        self._name = name

    def show(self, progress: LoadProgress) -> None:
        if progress.figures is not None:
            notify(f"{self._name}: {_level_text(progress)}")


class LoadProgressBar(AbstractContextManager["LoadProgressBar"]):
    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(name, total=None, figures="")

    def __enter__(self) -> LoadProgressBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, progress: LoadProgress) -> None:
        done = progress.level + (progress.figures is not None)
        figures = _level_text(progress)
        self._bar.update(self._task, completed=done, total=progress.levels, figures=figures)


def _level_text(progress: LoadProgress) -> str:
    requests = f"{format_number(progress.requests)} requests"
    errors = f"{format_number(progress.errors)} errors"
    return f"{progress.label}: {requests}, {errors}, {progress.elapsed_s:.0f} s"


def register(app: typer.Typer) -> None:
    app.command("bench")(command)
