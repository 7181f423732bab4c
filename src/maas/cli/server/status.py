"""maas status: desired state and actual state of all deployments."""

from __future__ import annotations

from typing import Any

import typer

from maas.cli.common import client_of, settings_of
from maas.cli.deployments.state import targets_text
from maas.cli.output import Format, OutputOption, emit, emit_json, emit_table, notify, size
from maas.cli.server.server_home import running_pid
from maas.domain.deployments import Target
from maas.domain.errors import Unauthenticated
from maas.domain.numbers import format_number


def command(ctx: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """Show deployments and replicas: desired state and actual state."""
    client = client_of(ctx)
    try:
        status = client.status()
    except Unauthenticated as error:
        settings = settings_of(ctx)
        if running_pid(settings) is not None:
            raise
        raise Unauthenticated(
            f"{error.message.rstrip('.')}. The server at {client.base_url} is not that of "
            f"{settings.home}, for which none runs: set MAAS_API_KEY to a key of that server, or "
            "--home to its home"
        ) from None
    if output is Format.JSON:
        emit_json(status)
        return
    notify(f"OpenMaaS {status.get('version', '?')} at {client.base_url}")
    deployments = status.get("deployments", [])
    if not deployments:
        notify("nothing is deployed; `maas run RECIPE.toml` or `maas deploy NAME` deploys a model")
        return
    emit_table(
        ("deployment", "model", "targets", "ready", "state", "reason"),
        map(_deployment, deployments),
    )
    replicas = [
        _replica(deployment["name"], replica)
        for deployment in deployments
        for replica in deployment.get("replicas", [])
    ]
    if replicas:
        emit("")
        emit_table(
            ("replica", "deployment", "version", "state", "pid", "memory", "served", "queued"),
            replicas,
        )


def _deployment(deployment: dict[str, Any]) -> tuple[object, ...]:
    name = deployment["name"] + (" (default)" if deployment.get("default") else "")
    targets = [Target(t["version"], t["variant"], t["weight"]) for t in deployment["targets"]]
    return (
        name,
        deployment["model"],
        targets_text(targets),
        f"{deployment['ready']}/{deployment['desired']}",
        deployment["state"],
        deployment.get("reason"),
    )


def _replica(name: str, replica: dict[str, Any]) -> tuple[object, ...]:
    return (
        replica["id"],
        name,
        f"{replica['version']}/{replica['variant']}",
        replica["state"],
        replica["pid"],
        size(replica.get("rss_bytes")),
        _count(replica.get("served")),
        _count(replica.get("queued")),
    )


def _count(value: int | None) -> str | None:
    return None if value is None else format_number(value)


def register(app: typer.Typer) -> None:
    app.command("status")(command)
