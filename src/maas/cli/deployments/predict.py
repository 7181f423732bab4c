"""maas predict: send inputs to a deployment and print its outputs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from maas.cli.common import client_of
from maas.cli.completion import DeploymentArgument
from maas.cli.deployments.inputs import FILE_HELP, VALUES_HELP, read_inputs
from maas.cli.deployments.outputs import emit_csv, emit_outputs
from maas.cli.output import emit_json


class PredictionFormat(StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def command(
    ctx: typer.Context,
    name: DeploymentArgument,
    values: Annotated[list[str] | None, typer.Argument(metavar="INPUTS", help=VALUES_HELP)] = None,
    file: Annotated[str | None, typer.Option("--file", "-f", help=FILE_HELP)] = None,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds to wait for the outputs.")
    ] = 30.0,
    output: Annotated[
        PredictionFormat,
        typer.Option(
            "--output",
            "-o",
            help="Output format: table for people, json for programs, csv (a row per input row).",
        ),
    ] = PredictionFormat.TABLE,
) -> None:
    """Send one row or a batch of rows to a deployment and print its outputs."""
    client = client_of(ctx, timeout=timeout)
    inputs = read_inputs(client, name, values or [], file)
    outputs = client.predict(name, inputs.values)
    if output is PredictionFormat.JSON:
        emit_json(outputs)
    elif output is PredictionFormat.CSV:
        emit_csv(outputs, inputs.rows)
    else:
        emit_outputs(outputs, inputs.rows)


def register(app: typer.Typer) -> None:
    app.command("predict")(command)
