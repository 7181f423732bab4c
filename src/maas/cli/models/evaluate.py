"""maas evaluate: a built model, measured on the rows that its recipe holds back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maas.cli.common import Format, OutputOption, emit_json, emit_table, say, settings_of
from maas.cli.models.watching import check_gates, start, watch
from maas.domain.errors import NotFound
from maas.domain.jobs import JobState

if TYPE_CHECKING:
    from maas.lifecycle.job_folder import JobFolder
    from maas.lifecycle.recipe import Recipe
    from maas.settings import Settings


def command(
    ctx: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="TOML file whose model is built.")],
    job: Annotated[
        str | None, typer.Option(help="The build to measure; default: the newest of this recipe.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write the HTML report to this file.")] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Measure a built model on its test rows, and check the recipe's gates.

    The recipe's [evaluate] may have changed since the build; its [data] and [split] decide which
    rows the model has not seen, and must not.
    """
    from maas.lifecycle.job_folder import JobFolder
    from maas.lifecycle.recipe import Recipe

    settings = settings_of(ctx)
    wanted = Recipe.load(recipe)
    built = JobFolder.open(settings.jobs_dir, job) if job else newest_build(settings, wanted)
    folder = JobFolder.create(
        settings.jobs_dir,
        "evaluate",
        wanted.name,
        recipe=wanted.raw,
        directory=str(wanted.directory),
        publication=str(built.publication),
    )
    done = watch(folder, start(folder, settings))
    if report is not None:
        shutil.copyfile(folder.publication / "report.html", report)
        say(f"report: {report}")
    else:
        say(f"report: {folder.publication / 'report.html'}")
    if output is Format.JSON:
        emit_json(done.result)
    else:
        intervals = done.result["intervals"]
        emit_table(
            ("metric", "value", "95 % interval"),
            (
                (name, value, "{:.4g} to {:.4g}".format(*intervals[name]))
                if name in intervals
                else (name, value, None)
                for name, value in done.result["metrics"].items()
            ),
        )
    check_gates(done)


def newest_build(settings: Settings, recipe: Recipe) -> JobFolder:
    """The newest finished build of the same spec. Raises NotFound that says how to make one."""
    from maas.lifecycle.job_folder import JobFolder
    from maas.lifecycle.recipe import BUILD_TABLES

    def wanted(raw: dict[str, object]) -> list[object]:
        return [raw.get(key) for key in ("name", *BUILD_TABLES)]

    for folder in JobFolder.all(settings.jobs_dir):
        spec = folder.spec()
        if (
            spec.kind == "build"
            and wanted(spec.recipe) == wanted(recipe.raw)
            and folder.job().state is JobState.SUCCEEDED
        ):
            return folder
    raise NotFound(f"{recipe.name} is not built as the recipe says; `maas build` does that")


def register(app: typer.Typer) -> None:
    app.command("evaluate")(command)
