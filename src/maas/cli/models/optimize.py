"""maas optimize: smaller or faster forms of a version, each with its evidence."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
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
from maas.cli.models.build import resumed
from maas.cli.models.watching import finished, start, watch
from maas.domain.errors import Conflict, InvalidInput, MaasError
from maas.domain.jobs import JobState

if TYPE_CHECKING:
    from maas.client.client import Client
    from maas.lifecycle.job_folder import JobFolder
    from maas.settings import Settings


def command(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Argument(metavar="MODEL[:VERSION]")] = None,
    objective: Annotated[
        str, typer.Option(help="latency, throughput, size or memory.")
    ] = "throughput",
    gate: Annotated[
        str,
        typer.Option(
            help="What a variant may lose; default: 1 point, 1 % of an error, 5 % of perplexity."
        ),
    ] = "",
    data: Annotated[
        Path | None,
        typer.Option(metavar="NPZ", help="Rows X, and y; default: those of the build."),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="To compare language models on; default: one of ours."),
    ] = None,
    candidate: Annotated[
        list[str] | None, typer.Option(help="Try only this one; may be repeated.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.001, max=60, help="Of one turn of the measurement.")
    ] = 0.05,
    runs: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=100,
            help="Fresh processes that are measured; default: 8, and 4 of a language model.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of training and resampling.")] = 0,
    epochs: Annotated[
        int, typer.Option(min=0, help="Of fine-tuning; 0: as many as the build had.")
    ] = 0,
    report: Annotated[
        Path | None, typer.Option(metavar="HTML", help="Write the report here, too.")
    ] = None,
    resume: Annotated[str | None, typer.Option(metavar="JOB", help="Go on with this job.")] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait for it.")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Make smaller or faster forms of a version, measure each beside the original, and add those
    that pass the gate as variants."""
    settings = settings_of(ctx)
    client = client_of(ctx, timeout=300)
    if (model is None) == (resume is None):
        raise InvalidInput("give a model, or --resume and a job")
    if resume is not None:
        folder = _again(settings, resume)
    else:
        told = {
            "objective": objective,
            "gate": gate,
            "candidates": candidate or [],
            "seconds": seconds,
            "runs": runs,
            "seed": seed,
            "epochs": epochs,
        }
        folder = new_optimization(client, settings, model or "", told, data, text)
    if folder.job().state is not JobState.SUCCEEDED:
        process = start(folder, settings)
        say(f"job {folder.path.name}")
        if detach:
            say(f"`maas optimize --resume {folder.path.name}` sends what it finds")
            return
        watch(folder, process)
    finished(folder)
    found = send(client, folder)
    if report is not None:
        report.write_bytes((folder.work / "optimization.html").read_bytes())
    say(f"report: {report or folder.work / 'optimization.html'}")
    print_optimization(found, folder, output)


def new_optimization(
    client: Client,
    settings: Settings,
    ref: str,
    told: dict[str, Any],
    data: Path | None = None,
    text: Path | None = None,
) -> JobFolder:
    """A job's folder with the version's first variant in it. Raises InvalidInput before anything
    runs if it cannot be understood."""
    from maas.lifecycle.job_folder import JobFolder
    from maas.lifecycle.optimize.publication import ORIGINAL
    from maas.lifecycle.recipe import optimize_step

    step = optimize_step(told)
    for name, file in (("data", data), ("text", text)):
        if file is not None and not file.is_file():
            raise InvalidInput(f"there is no file {file}", field=name)
    details = client.models.version(ref)
    version = details.version
    folder = JobFolder.create(
        settings.jobs_dir,
        "optimize",
        version.model,
        recipe={},
        directory=str(Path.cwd()),
        options={
            "ref": f"{version.model}:{version.number}",
            "manifest": version.manifest.to_dict(),
            "step": step.to_dict(),
            "data": str(data.resolve()) if data is not None else "",
            "text": str(text.resolve()) if text is not None else "",
        },
    )
    try:
        client.fetch_original(details, folder.work / ORIGINAL)
    except MaasError:
        shutil.rmtree(folder.path, ignore_errors=True)
        raise
    return folder


def send(client: Client, folder: JobFolder) -> dict[str, Any]:
    """Adds what a finished job has left to the version."""
    from maas.lifecycle.optimize.publication import PreparedOptimization

    found = client.send_optimization(PreparedOptimization.load(folder.publication))
    folder.mark_sent()
    return found


def print_optimization(found: dict[str, Any], folder: JobFolder, output: Format) -> None:
    from maas.lifecycle.optimize.publication import FIGURES
    from maas.lifecycle.optimize.report.summary import headings, terminal_rows
    from maas.lifecycle.optimize.results import Optimization, from_json

    if output is Format.JSON:
        emit_json(found)
        return
    figures = msgspec.json.decode((folder.work / FIGURES).read_bytes())
    optimization = from_json(figures, Optimization)
    emit_table(headings(optimization), terminal_rows(optimization))
    say(f"chosen for {found['objective']}: {found['chosen']}: {found['chosen_reason']}")
    others = [f"{o} {name}" for o, name in optimization.best.items() if o != found["objective"]]
    if others:
        say(f"by other objectives it would be: {', '.join(others)}")
    if found["chosen"] != found["candidates"][0]["name"]:
        model, _, version = found["model"].partition(":")
        say(f"next: `maas deploy {model} --version {version} --variant auto`")


def _again(settings: Settings, job_id: str) -> JobFolder:
    from maas.lifecycle.job_folder import JobFolder

    folder = JobFolder.open(settings.jobs_dir, job_id)
    if folder.spec().kind != "optimize":
        raise Conflict(f"job {job_id} is a {folder.spec().kind}, not an optimization")
    return folder if folder.job().state is JobState.SUCCEEDED else resumed(settings, job_id)


def register(app: typer.Typer) -> None:
    app.command("optimize")(command)
