"""maas undeploy: nothing answers under a name any more."""

from __future__ import annotations

from typing import Annotated

import typer

from maas.cli.common import client_of, say


def command(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Deployment.")],
) -> None:
    """Stop a deployment and forget it, after it has answered what it accepted; its model stays."""
    client_of(ctx).deployments.delete(name)
    say(f"{name} answers no more; its model stays")


def register(app: typer.Typer) -> None:
    app.command("undeploy")(command)
