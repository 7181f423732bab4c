"""maas undeploy: delete a deployment."""

from __future__ import annotations

import typer

from maas.cli.common import client_of
from maas.cli.completion import DeploymentArgument
from maas.cli.output import notify


def command(ctx: typer.Context, name: DeploymentArgument) -> None:
    """Delete a deployment after it has answered the requests in flight.

    The model stays published.
    """
    client_of(ctx).deployments.delete(name)
    notify(f"deleted deployment {name}; its model stays published")


def register(app: typer.Typer) -> None:
    app.command("undeploy")(command)
