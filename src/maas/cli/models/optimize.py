"""maas optimize: smaller or faster variants of a version, each with its evidence."""

from __future__ import annotations

import shutil
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from maas.cli.common import UsageError, client_of, settings_of
from maas.cli.completion import job_ids, model_names
from maas.cli.models.build import resumed
from maas.cli.models.job_progress import finished, start, wait_for
from maas.cli.output import Format, OutputOption, emit_json, emit_table, notify
from maas.domain.errors import Conflict, InvalidInput, MaasError
from maas.domain.jobs import JobState

if TYPE_CHECKING:
    from maas.client.client import Client
    from maas.lifecycle.job_folder import JobFolder
    from maas.settings import Settings


class OptimizationObjective(StrEnum):
    LATENCY = "latency"
    THROUGHPUT = "throughput"
    SIZE = "size"
    MEMORY = "memory"


def command(
    ctx: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL[:VERSION]",
            help="Version to optimize (default: the newest of the model).",
            autocompletion=model_names,
        ),
    ] = None,
    objective: Annotated[
        OptimizationObjective, typer.Option(help="What to improve.")
    ] = OptimizationObjective.THROUGHPUT,
    gate: Annotated[
        str,
        typer.Option(
            metavar="RULE",
            help="How much quality a variant may lose, such as 'accuracy>=-0.01' (default: 1 point "
            "of accuracy, 1 % of an error, 5 % of a perplexity).",
        ),
    ] = "",
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="NPZ",
            help="Rows X, and labels y, to compare variants on (default: those of the build).",
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Text to compare language models on (default: a text of this package).",
        ),
    ] = None,
    candidate: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Try only this candidate; may be repeated."),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(
            min=0.001,
            max=60,
            help="Seconds per measurement; candidate and original alternate.",
        ),
    ] = 0.05,
    runs: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=100,
            help="Number of fresh processes that measure each candidate (default: 8, or 4 for a "
            "language model).",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of training and resampling.")] = 0,
    epochs: Annotated[
        int, typer.Option(min=0, help="Epochs of fine-tuning; 0 uses those of the build.")
    ] = 0,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the HTML report to this file.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="JOB", help="Resume this job.", autocompletion=job_ids),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return at once; the job runs in the background.")
    ] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Make smaller or faster variants of a version, and add those that pass the gate.

    Each candidate is measured alongside the original. The figures are stored as evidence.
    """
    settings = settings_of(ctx)
    client = client_of(ctx, timeout=300)
    if (model is None) == (resume is None):
        raise UsageError("expected a model, or --resume with a job")
    if resume is not None:
        folder = _resumed_optimization(settings, resume)
    else:
        options = {
            "objective": str(objective),
            "gate": gate,
            "candidates": candidate or [],
            "seconds": seconds,
            "runs": runs,
            "seed": seed,
            "epochs": epochs,
        }
        folder = new_optimization(client, settings, model or "", options, data, text)
    if folder.job().state is not JobState.SUCCEEDED:
        process = start(folder, settings)
        notify(f"job {folder.path.name}")
        if detach:
            notify(f"next: `maas optimize --resume {folder.path.name}` sends the result")
            return
        wait_for(folder, process)
    finished(folder)
    summary = send(client, folder)
    if report is not None:
        report.write_bytes((folder.work / "optimization.html").read_bytes())
    notify(f"report: {report or folder.work / 'optimization.html'}")
    print_optimization(summary, folder, output)


def new_optimization(
    client: Client,
    settings: Settings,
    ref: str,
    options: dict[str, Any],
    data: Path | None = None,
    text: Path | None = None,
) -> JobFolder:
    """The folder of a new optimization, with the first variant of the version in it.

    Raises InvalidInput for invalid options, before anything runs.
    """
    from maas.lifecycle.job_folder import JobFolder
    from maas.lifecycle.optimize.publication import ORIGINAL
    from maas.lifecycle.recipe import optimize_step

    step = optimize_step(options)
    for name, file in (("data", data), ("text", text)):
        if file is not None and not file.is_file():
            raise InvalidInput(f"--{name}: there is no file {file}", field=name)
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
    """Add the variants and the evidence of a finished job to the version. Returns the summary."""
    from maas.lifecycle.optimize.publication import PreparedOptimization

    summary = client.send_optimization(PreparedOptimization.load(folder.publication))
    folder.mark_sent()
    return summary


def print_optimization(summary: dict[str, Any], folder: JobFolder, output: Format) -> None:
    """Print the table of candidates, the chosen one and why."""
    from maas.lifecycle.optimize.publication import FIGURES
    from maas.lifecycle.optimize.report.summary import headings, terminal_rows
    from maas.lifecycle.optimize.results import Optimization, from_json

    if output is Format.JSON:
        emit_json(summary)
        return
    figures = msgspec.json.decode((folder.work / FIGURES).read_bytes())
    optimization = from_json(figures, Optimization)
    emit_table(headings(optimization), terminal_rows(optimization))
    notify(chosen_text(summary))
    for objective, name in optimization.best.items():
        if objective != summary["objective"]:
            notify(f"best for {objective}: {name}")
    if summary["chosen"] != summary["candidates"][0]["name"]:
        model, _, version = summary["model"].partition(":")
        notify(f"next: `maas deploy {model} --version {version} --variant auto`")


def chosen_text(summary: dict[str, Any]) -> str:
    """The chosen candidate and the reason, in a sentence."""
    return f"chosen for {summary['objective']}: {summary['chosen']} ({summary['chosen_reason']})"


def _resumed_optimization(settings: Settings, job_id: str) -> JobFolder:
    from maas.lifecycle.job_folder import JobFolder

    folder = JobFolder.open(settings.jobs_dir, job_id)
    if folder.spec().kind != "optimize":
        raise Conflict(f"job {job_id} is not an optimization, its kind is {folder.spec().kind}")
    return folder if folder.job().state is JobState.SUCCEEDED else resumed(settings, job_id)


def register(app: typer.Typer) -> None:
    app.command("optimize")(command)
