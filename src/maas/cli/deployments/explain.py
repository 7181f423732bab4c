"""maas explain: why a deployment answers as it does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maas.cli.common import Format, OutputOption, client_of, emit, emit_json, say
from maas.cli.deployments.predict import FILE_HELP, VALUES_HELP, read_inputs
from maas.domain.errors import InvalidInput

if TYPE_CHECKING:
    from maas.lifecycle.explain import Explanation


def command(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Deployment.")],
    values: Annotated[list[str] | None, typer.Argument(help=VALUES_HELP)] = None,
    file: Annotated[str | None, typer.Option("--file", "-f", help=FILE_HELP)] = None,
    output_name: Annotated[
        str | None, typer.Option("--of", help="Output to explain; default: the first of numbers.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Its entry, by label or index; default: the largest.")
    ] = None,
    samples: Annotated[
        int, typer.Option(min=64, max=10000, help="Most model rows; more are more exact.")
    ] = 2048,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    picture: Annotated[
        Path | None, typer.Option(help="Write a picture: .png (images), .svg or .html.")
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show how much each part of one row moved the answer (Shapley values by sampling)."""
    client = client_of(ctx, timeout=300)
    inputs = read_inputs(client, name, values or [], file)
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
        say(f"picture: {picture}")


def show_explanation(raw: dict[str, Any]) -> None:
    """Bars for the strongest parts, as wide as the terminal."""
    from rich.console import Console

    from maas.lifecycle.pictures import terminal_bars

    console = Console()  # knows NO_COLOR, and what kind of terminal this is
    color = console.is_terminal and not console.no_color
    emit(terminal_bars(_explanation(raw), width=console.width, color=color))


def write_picture(raw: dict[str, Any], inputs: dict[str, Any], path: Path) -> None:
    """Raises InvalidInput for a suffix that is no picture, or a PNG of what is no image."""
    from maas.lifecycle.pictures import explanation_html, explanation_svg, heat_map_png

    explanation = _explanation(raw)
    kind = path.suffix.lower()
    if kind == ".png":
        if explanation.image is None:
            raise InvalidInput("a .png is for images; for this input write .svg or .html")
        path.write_bytes(heat_map_png(explanation, inputs[explanation.image.input]))
    elif kind == ".svg":
        path.write_text(explanation_svg(explanation), encoding="utf-8")
    elif kind == ".html":
        image = inputs[explanation.image.input] if explanation.image else None
        path.write_text(explanation_html(explanation, image=image), encoding="utf-8")
    else:
        raise InvalidInput(f"a picture is a .png, .svg or .html file; got {path.name!r}")


def _explanation(raw: dict[str, Any]) -> Explanation:
    """The noun, without what the server says besides (deployment, version)."""
    from dataclasses import fields

    from maas.lifecycle.explain import Explanation

    known = {f.name for f in fields(Explanation)}
    return Explanation.from_dict({k: v for k, v in raw.items() if k in known})


def register(app: typer.Typer) -> None:
    app.command("explain")(command)
