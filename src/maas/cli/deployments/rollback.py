"""maas rollback: a deployment as it was before its last change."""

from __future__ import annotations

from typing import Annotated

import typer

from maas.cli.common import Format, OutputOption, client_of
from maas.cli.deployments.deploy import deployed


def command(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Deployment.")],
    wait: Annotated[float, typer.Option(help="Seconds to wait until it is ready.")] = 300.0,
    output: OutputOption = Format.TABLE,
) -> None:
    """Put back what a deployment was before its last change, and wait until it is ready."""
    client = client_of(ctx)
    deployed(client, name, lambda watch: client.rollback(name, wait_s=wait, watch=watch), output)


def register(app: typer.Typer) -> None:
    app.command("rollback")(command)
