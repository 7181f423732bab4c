"""maas build: train the model of a recipe, in a process of its own on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maas.cli.common import UsageError, settings_of
from maas.cli.completion import job_ids
from maas.cli.models.job_progress import metrics_line, start, wait_for
from maas.cli.output import Format, OutputOption, emit_json, emit_table, notify
from maas.domain.errors import Conflict
from maas.domain.jobs import JobState
from maas.domain.numbers import format_number

if TYPE_CHECKING:
    from maas.domain.jobs import Job
    from maas.lifecycle.job_folder import JobFolder
    from maas.lifecycle.recipe import Recipe
    from maas.settings import Settings


def command(
    ctx: typer.Context,
    recipe: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="Recipe, a TOML file.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="JOB", help="Resume this job from its checkpoint.", autocompletion=job_ids
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return at once; the job runs in the background.")
    ] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Train the model of a recipe, ready to be published."""
    from maas.lifecycle.recipe import Recipe

    settings = settings_of(ctx)
    if (recipe is None) == (resume is None):
        raise UsageError("expected a recipe, or --resume with a job")
    if resume is not None:
        folder = resumed(settings, resume)
    else:
        folder = new_build(settings, Recipe.load(recipe or Path()))
    process = start(folder, settings)
    notify(f"job {folder.path.name}")
    if detach:
        print_job(folder.job(), output)
        return
    print_job(wait_for(folder, process), output)
    notify(f"next: `maas publish --job {folder.path.name}`")


def new_build(settings: Settings, recipe: Recipe) -> JobFolder:
    """The folder of a new build."""
    from maas.lifecycle.job_folder import JobFolder

    return JobFolder.create(
        settings.jobs_dir, "build", recipe.name, recipe=recipe.raw, directory=str(recipe.directory)
    )


def resumed(settings: Settings, job_id: str) -> JobFolder:
    """The folder of a job to resume.

    A job whose process was lost continues in its own folder. One that failed or was cancelled
    continues as a new job with its checkpoint. Raises NotFound, or Conflict if the job runs or has
    succeeded.
    """
    from maas.lifecycle.job_folder import JobFolder

    folder = JobFolder.open(settings.jobs_dir, job_id)
    if folder.is_alive():
        raise Conflict(f"job {job_id} is running; see `maas jobs show {job_id}`")
    job, spec = folder.job(), folder.spec()
    if job.state is JobState.SUCCEEDED:
        raise Conflict(f"job {job_id} has succeeded; next: `maas publish --job {job_id}`")
    if not job.state.is_final:
        return folder
    successor = JobFolder.create(
        settings.jobs_dir,
        spec.kind,
        spec.name,
        recipe=spec.recipe,
        directory=spec.directory,
        options=spec.options,
    )
    if folder.work.is_dir():
        successor.work.rmdir()
        folder.work.rename(successor.work)
    return successor


def print_job(job: Job, output: Format) -> None:
    """Print a job with the figures of its training."""
    if output is Format.JSON:
        emit_json(job.to_dict())
        return
    training = job.result.get("training", {})
    seconds = training.get("seconds")
    emit_table(
        ("job", "kind", "model", "state", "epochs", "seconds", "metrics"),
        [
            (
                job.id,
                job.kind,
                job.name,
                job.state,
                training.get("epochs"),
                None if seconds is None else format_number(round(seconds, 1)),
                metrics_line(job),
            )
        ],
    )


def register(app: typer.Typer) -> None:
    app.command("build")(command)
