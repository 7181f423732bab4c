"""maas build: a recipe's model, trained in a process of its own on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maas.cli.common import Format, OutputOption, emit_json, emit_table, say, settings_of
from maas.cli.models.watching import metrics_line, start, watch
from maas.domain.errors import Conflict, InvalidInput
from maas.domain.jobs import JobState

if TYPE_CHECKING:
    from maas.domain.jobs import Job
    from maas.lifecycle.job_folder import JobFolder
    from maas.lifecycle.recipe import Recipe
    from maas.settings import Settings


def command(
    ctx: typer.Context,
    recipe: Annotated[Path | None, typer.Argument(help="TOML file.")] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="JOB", help="Go on with this job from its checkpoint.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait for it.")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Train the model of a recipe, and leave it ready to be published."""
    from maas.lifecycle.recipe import Recipe

    settings = settings_of(ctx)
    if (recipe is None) == (resume is None):
        raise InvalidInput("give a recipe, or --resume and a job")
    if resume is not None:
        folder = resumed(settings, resume)
    else:
        folder = new_build(settings, Recipe.load(recipe or Path()))
    process = start(folder, settings)
    say(f"job {folder.path.name}")
    if detach:
        print_job(folder.job(), output)
        return
    print_job(watch(folder, process), output)
    say(f"next: `maas publish --job {folder.path.name}`")


def new_build(settings: Settings, recipe: Recipe) -> JobFolder:
    from maas.lifecycle.job_folder import JobFolder

    return JobFolder.create(
        settings.jobs_dir, "build", recipe.name, recipe=recipe.raw, directory=str(recipe.directory)
    )


def resumed(settings: Settings, job_id: str) -> JobFolder:
    """The job, if its process was lost; a new one that has its checkpoint, if it had ended."""
    from maas.lifecycle.job_folder import JobFolder

    folder = JobFolder.open(settings.jobs_dir, job_id)
    if folder.is_alive():
        raise Conflict(f"job {job_id} is running; see `maas jobs show {job_id}`")
    job, spec = folder.job(), folder.spec()
    if job.state is JobState.SUCCEEDED:
        raise Conflict(f"job {job_id} has succeeded; `maas publish --job {job_id}` is next")
    if not job.state.is_final:
        return folder
    fresh = JobFolder.create(
        settings.jobs_dir,
        spec.kind,
        spec.name,
        recipe=spec.recipe,
        directory=spec.directory,
        options=spec.options,
    )
    if folder.work.is_dir():
        fresh.work.rmdir()
        folder.work.rename(fresh.work)
    return fresh


def print_job(job: Job, output: Format) -> None:
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
                None if seconds is None else round(seconds, 1),
                metrics_line(job),
            )
        ],
    )


def register(app: typer.Typer) -> None:
    app.command("build")(command)
