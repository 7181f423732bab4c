"""maas explain: explain one prediction of a deployment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maas.cli.common import client_of
from maas.cli.completion import DeploymentArgument
from maas.cli.deployments.inputs import FILE_HELP, VALUES_HELP, read_inputs
from maas.cli.output import Format, OutputOption, emit, emit_json, notify
from maas.domain.errors import InvalidInput

if TYPE_CHECKING:
    from maas.lifecycle.explain import Explanation

PICTURE_SUFFIXES = (".png", ".svg", ".html")


def command(
    ctx: typer.Context,
    name: DeploymentArgument,
    values: Annotated[list[str] | None, typer.Argument(metavar="INPUTS", help=VALUES_HELP)] = None,
    file: Annotated[str | None, typer.Option("--file", "-f", help=FILE_HELP)] = None,
    output_name: Annotated[
        str | None,
        typer.Option(
            "--of", metavar="NAME", help="Output to explain (default: the first numeric one)."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Element of the output, by label or index (default: the largest)."),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            min=64,
            max=10000,
            help="Maximum number of rows to evaluate; more rows are more accurate.",
        ),
    ] = 2048,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write a picture: .png (for images), .svg or .html."
        ),
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Explain one prediction: how much each input feature contributes (Shapley values)."""
    if picture is not None:
        check_picture(picture)
    client = client_of(ctx, timeout=300)
    inputs = read_inputs(client, name, values or [], file).values
    options: dict[str, Any] = {"samples": samples, "seed": seed}
    if output_name is not None:
        options["output"] = output_name
    if target is not None:
        options["target"] = int(target) if target.isdecimal() else target
    explanation = client.explain(name, inputs, options=options)
    if output is Format.JSON:
        emit_json(explanation)
    else:
        show_explanation(explanation)
    if picture is not None:
        write_picture(explanation, inputs, picture)
        notify(f"picture: {picture}")


def show_explanation(raw: dict[str, Any]) -> None:
    """Print a bar per strongest feature, as wide as the terminal."""
    from rich.console import Console

    from maas.lifecycle.pictures import terminal_bars

    console = Console()  # respects NO_COLOR and the kind of terminal
    color = console.is_terminal and not console.no_color
    emit(terminal_bars(_explanation(raw), width=console.width, color=color))


def check_picture(path: Path) -> None:
    """Check that a picture can be written to `path`, before anything is computed.

    Raises InvalidInput for an unknown suffix or a folder that does not exist.
    """
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise InvalidInput(f"a picture must be a .png, .svg or .html file; got {path.name!r}")
    if not path.absolute().parent.is_dir():
        raise InvalidInput(f"the folder of the picture {path} does not exist")


def write_picture(raw: dict[str, Any], inputs: dict[str, Any], path: Path) -> None:
    """Write the explanation to a picture file.

    Raises InvalidInput for an unknown suffix, or a PNG of an input that is not an image.
    """
    check_picture(path)
    from maas.lifecycle.pictures import explanation_html, explanation_svg, heat_map_png

    explanation = _explanation(raw)
    kind = path.suffix.lower()
    if kind == ".png":
        if explanation.image is None:
            raise InvalidInput("a .png picture needs an image as input; write .svg or .html")
        path.write_bytes(heat_map_png(explanation, inputs[explanation.image.input]))
    elif kind == ".svg":
        path.write_text(explanation_svg(explanation), encoding="utf-8")
    else:
        image = inputs[explanation.image.input] if explanation.image else None
        path.write_text(explanation_html(explanation, image=image), encoding="utf-8")


def _explanation(raw: dict[str, Any]) -> Explanation:
    """The explanation without the fields that the server adds (deployment, version)."""
    from dataclasses import fields

    from maas.lifecycle.explain import Explanation

    names = {field.name for field in fields(Explanation)}
    return Explanation.from_dict({name: raw[name] for name in raw if name in names})


def register(app: typer.Typer) -> None:
    app.command("explain")(command)
