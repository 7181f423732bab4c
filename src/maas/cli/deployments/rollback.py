"""maas rollback: restore the state of a deployment before its last change."""

from __future__ import annotations

from typing import Annotated

import typer

from maas.cli.common import client_of
from maas.cli.completion import DeploymentArgument
from maas.cli.deployments.state import change_and_show
from maas.cli.output import Format, OutputOption


def command(
    ctx: typer.Context,
    name: DeploymentArgument,
    wait: Annotated[
        float,
        typer.Option(min=0, help="Seconds to wait until it is ready; 0 does not wait."),
    ] = 300.0,
    output: OutputOption = Format.TABLE,
) -> None:
    """Restore the state before the last change, and wait until the deployment is ready.

    A second rollback undoes the first.
    """
    client = client_of(ctx)
    change_and_show(
        client,
        name,
        lambda progress: client.rollback(name, wait_s=wait, progress=progress),
        output,
    )


def register(app: typer.Typer) -> None:
    app.command("rollback")(command)
