"""maas deployments: list deployments, or show one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from maas.cli.common import add_commands, client_of
from maas.cli.completion import DeploymentArgument
from maas.cli.deployments.state import share_text, targets_text
from maas.cli.output import Format, OutputOption, emit, emit_json, emit_table, notify

if TYPE_CHECKING:
    from maas.client.answers import DeploymentView

group = typer.Typer(help="List deployments, or show one.")


@group.callback(invoke_without_command=True)
def main(ctx: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """List deployments, or show one."""
    if ctx.invoked_subcommand is None:
        _list(ctx, output)


def list_(ctx: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """List all deployments."""
    _list(ctx, output)


def show(ctx: typer.Context, name: DeploymentArgument, output: OutputOption = Format.TABLE) -> None:
    """Show a deployment: state, targets and scaling."""
    view = client_of(ctx).deployments.get(name)
    if output is Format.JSON:
        emit_json(view.to_dict())
        return
    _emit_views([view])
    deployment = view.deployment
    total = sum(target.weight for target in deployment.targets)
    emit("")
    emit_table(
        ("version", "variant", "share"),
        ((t.version, t.variant, share_text(t.weight, total)) for t in deployment.targets),
    )
    emit("")
    scaling = deployment.scaling
    emit_table(
        ("setting", "value"),
        [
            ("replicas", scaling.replicas),
            ("threads", scaling.threads),
            ("max batch", scaling.max_batch),
            ("queue limit", scaling.queue_limit),
            ("gate", deployment.gate),
            ("revision", deployment.revision),
        ],
    )


def _list(ctx: typer.Context, output: Format) -> None:
    views = client_of(ctx).deployments.list()
    if output is Format.JSON:
        emit_json([view.to_dict() for view in views])
        return
    if not views:
        notify("there is no deployment; `maas deploy NAME` creates one")
        return
    _emit_views(views)


def _emit_views(views: list[DeploymentView]) -> None:
    emit_table(
        ("deployment", "model", "targets", "ready", "state", "reason"),
        (
            (
                view.name + (" (default)" if view.deployment.default else ""),
                view.deployment.model,
                targets_text(view.deployment.targets),
                f"{view.ready}/{view.desired}",
                view.state,
                view.reason,
            )
            for view in views
        ),
    )


add_commands(group, {"list": list_, "show": show})


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="deployments")
