"""maas publish: publish a finished build or an ONNX file as a new version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from maas.cli.common import UsageError, client_of, settings_of
from maas.cli.completion import job_ids, model_names
from maas.cli.models.job_progress import check_gates, finished
from maas.cli.output import Format, OutputOption, emit_json, emit_table, notify
from maas.domain.errors import InvalidInput
from maas.domain.models import Task

if TYPE_CHECKING:
    from maas.client.answers import PublishedVersion


def command(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="ONNX file to publish.")
    ] = None,
    job: Annotated[
        str | None,
        typer.Option(help="Finished build or evaluation to publish.", autocompletion=job_ids),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the model (default: that of the file).", autocompletion=model_names
        ),
    ] = None,
    example: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="One row of inputs, for example '{\"x\": [1, 2]}'."),
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(metavar="NPZ", help="Held-out rows X and labels y to measure the file on."),
    ] = None,
    task: Annotated[
        Task | None,
        typer.Option(
            metavar="TASK",
            help=f"Task of the model: {', '.join(Task)} (default: from its outputs).",
            autocompletion=tasks,
        ),
    ] = None,
    description: Annotated[str, typer.Option(help="Purpose of the model, in a sentence.")] = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """Publish a built model or an ONNX file as a new version.

    Publishing the same model again returns the same version.
    """
    from maas.lifecycle.job_folder import JobFolder

    if (file is None) == (job is None):
        raise UsageError("expected an ONNX file, or --job with a finished build")
    if job is not None:
        folder = JobFolder.open(settings_of(ctx).jobs_dir, job)
        check_gates(finished(folder))
        print_published(publish_folder(ctx, folder.publication), output)
        return
    path = file or Path()
    published = client_of(ctx, timeout=300).publish(
        path,
        name or path.stem.lower(),
        example=_json(example),
        evaluation=_arrays(evaluation),
        task=None if task is None else str(task),
        description=description,
    )
    print_published(published, output)


def tasks(incomplete: str) -> list[str]:
    return [str(task) for task in Task if task.startswith(incomplete)]


def publish_folder(ctx: typer.Context, publication: Path) -> PublishedVersion:
    """Publish the result of a job, without the libraries that built it."""
    from maas.lifecycle.prepared_publication import PreparedPublication

    prepared = PreparedPublication.load(publication)
    return client_of(ctx).publish_prepared(prepared)


def print_published(published: PublishedVersion, output: Format) -> None:
    """Print the version and the command that deploys it."""
    if output is Format.JSON:
        emit_json(published.to_dict())
        return
    if not published.created:
        notify(f"{published} already exists with the same content")
    emit_table(
        ("model", "version", "digest"),
        [(published.model, published.number, published.digest[:12])],
    )
    notify(f"next: `maas deploy {published.model} --version {published.number}`")


def _json(text: str | None) -> Any:
    try:
        return None if text is None else msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise UsageError(f"--example must be JSON: {error}") from None


def _arrays(path: Path | None) -> Any:
    if path is None:
        return None
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            by_name = {name.lower(): arrays[name] for name in arrays.files}
        return by_name["x"], by_name["y"]
    except (OSError, ValueError, KeyError) as error:
        raise InvalidInput(f"{path} must be an NPZ file with arrays X and y: {error}") from None


def register(app: typer.Typer) -> None:
    app.command("publish")(command)
