"""maas evaluate: measure a built model on the held-out rows of its recipe."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maas.cli.common import settings_of
from maas.cli.completion import job_ids
from maas.cli.models.job_progress import check_gates, start, wait_for
from maas.cli.output import Format, OutputOption, emit_json, emit_table, notify
from maas.domain.errors import NotFound
from maas.domain.jobs import JobState
from maas.domain.numbers import format_number, format_range

if TYPE_CHECKING:
    from maas.domain.jobs import Job
    from maas.lifecycle.job_folder import JobFolder
    from maas.lifecycle.recipe import Recipe
    from maas.settings import Settings


def command(
    ctx: typer.Context,
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="Recipe of the built model, a TOML file.")
    ],
    job: Annotated[
        str | None,
        typer.Option(
            help="Build to measure (default: the newest of this recipe).", autocompletion=job_ids
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the HTML report to this file.")
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Measure a built model on its test rows, and check the gates of the recipe.

    The table [evaluate] of the recipe may differ from that of the build. [data] and [split] must
    not differ, because they determine the rows that the model was not trained on.
    """
    from maas.lifecycle.job_folder import JobFolder
    from maas.lifecycle.recipe import Recipe

    settings = settings_of(ctx)
    loaded = Recipe.load(recipe)
    built = JobFolder.open(settings.jobs_dir, job) if job else newest_build(settings, loaded)
    folder = JobFolder.create(
        settings.jobs_dir,
        "evaluate",
        loaded.name,
        recipe=loaded.raw,
        directory=str(loaded.directory),
        publication=str(built.publication),
    )
    evaluation = wait_for(folder, start(folder, settings))
    if report is not None:
        shutil.copyfile(folder.publication / "report.html", report)
    notify(f"report: {report or folder.publication / 'report.html'}")
    if output is Format.JSON:
        emit_json(evaluation.result)
    else:
        emit_table(("metric", "value", "95 % interval"), _metric_rows(evaluation))
    check_gates(evaluation)


def newest_build(settings: Settings, recipe: Recipe) -> JobFolder:
    """The newest build that succeeded with the same data, split and training as `recipe`.

    Raises NotFound, with the command that builds it.
    """
    from maas.lifecycle.job_folder import JobFolder
    from maas.lifecycle.recipe import BUILD_TABLES

    def build_tables(raw: dict[str, object]) -> list[object]:
        return [raw.get(key) for key in ("name", *BUILD_TABLES)]

    for folder in JobFolder.all(settings.jobs_dir):
        spec = folder.spec()
        if (
            spec.kind == "build"
            and build_tables(spec.recipe) == build_tables(recipe.raw)
            and folder.job().state is JobState.SUCCEEDED
        ):
            return folder
    raise NotFound(f"there is no build of {recipe.name} with this recipe; `maas build` makes one")


def _metric_rows(evaluation: Job) -> list[tuple[str, str, str | None]]:
    intervals = evaluation.result["intervals"]
    return [
        (name, format_number(value), format_range(*intervals[name]) if name in intervals else None)
        for name, value in evaluation.result["metrics"].items()
    ]


def register(app: typer.Typer) -> None:
    app.command("evaluate")(command)
