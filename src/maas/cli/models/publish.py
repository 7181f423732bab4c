"""maas publish: a finished build, or an ONNX file, becomes a version on the server."""

from __future__ import annotations

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
from maas.cli.models.watching import check_gates, finished
from maas.domain.errors import InvalidInput

if TYPE_CHECKING:
    from maas.client.answers import PublishedVersion


def command(
    ctx: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="An ONNX file.")] = None,
    job: Annotated[str | None, typer.Option(help="A finished build or evaluation.")] = None,
    name: Annotated[str | None, typer.Option(help="Model; default: the file's name.")] = None,
    example: Annotated[
        str | None, typer.Option(metavar="JSON", help="One row, for example '{\"x\": [1, 2]}'.")
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option(metavar="NPZ", help="Rows X and y to measure the file on.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="regression, binary- or multiclass-classification, other.")
    ] = None,
    description: Annotated[str, typer.Option(help="What it is for, in a sentence.")] = "",
    output: OutputOption = Format.TABLE,
) -> None:
    """Publish a built model or an ONNX file as a new version.

    The same again is the same version.
    """
    from maas.lifecycle.job_folder import JobFolder

    if (file is None) == (job is None):
        raise InvalidInput("give an ONNX file, or --job and a finished build")
    if job is not None:
        folder = JobFolder.open(settings_of(ctx).jobs_dir, job)
        check_gates(finished(folder))
        print_published(publish_folder(ctx, folder.publication), output)
        return
    path = file or Path()
    print_published(
        client_of(ctx, timeout=300).publish(
            path,
            name or path.stem.lower(),
            example=_json(example),
            evaluation=_arrays(evaluation),
            task=task,
            description=description,
        ),
        output,
    )


def publish_folder(ctx: typer.Context, publication: Path) -> PublishedVersion:
    """Sends what a job has left; needs none of the libraries that built it."""
    from maas.lifecycle.publication import PreparedPublication

    prepared = PreparedPublication.load(publication)
    return client_of(ctx).publish_prepared(prepared)


def print_published(published: PublishedVersion, output: Format) -> None:
    if output is Format.JSON:
        emit_json(published.to_dict())
        return
    if not published.created:
        say(f"{published} is there already and is the same")
    emit_table(
        ("model", "version", "digest"),
        [(published.model, published.number, published.digest[:12])],
    )
    say(f"next: `maas deploy {published.model} --version {published.number}`")


def _json(text: str | None) -> Any:
    try:
        return None if text is None else msgspec.json.decode(text)
    except msgspec.DecodeError as wrong:
        raise InvalidInput(f"--example is not JSON: {wrong}") from None


def _arrays(path: Path | None) -> Any:
    if path is None:
        return None
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            by_name = {name.lower(): arrays[name] for name in arrays.files}
        return by_name["x"], by_name["y"]
    except (OSError, ValueError, KeyError) as wrong:
        raise InvalidInput(f"{path} must be an NPZ file with arrays X and y: {wrong}") from None


def register(app: typer.Typer) -> None:
    app.command("publish")(command)
