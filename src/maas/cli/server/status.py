"""maas status: desired, actual, and why they differ."""

from __future__ import annotations

from typing import Any

import typer

from maas.cli.common import (
    Format,
    OutputOption,
    client_of,
    emit,
    emit_json,
    emit_table,
    say,
    settings_of,
    size,
)
from maas.cli.server.server_home import running_pid
from maas.domain.errors import Unauthenticated


def command(ctx: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """Show what shall run, what runs, and why the two differ."""
    client = client_of(ctx)
    try:
        status = client.status()
    except Unauthenticated as error:
        settings = settings_of(ctx)
        if running_pid(settings) is not None:
            raise
        raise Unauthenticated(
            f"{error.message}. A server answers at {client.base_url}, and it is not the one of "
            f"{settings.home}, for which none runs: set MAAS_API_KEY to a key of that server, or "
            "--home to its home"
        ) from None
    if output is Format.JSON:
        emit_json(status)
        return
    say(f"OpenMaaS {status.get('version', '?')} at {client.base_url}")
    deployments = status.get("deployments", [])
    if not deployments:
        say("nothing is deployed; `maas run RECIPE.toml` or `maas deploy NAME` changes that")
        return
    emit_table(
        ("deployment", "model", "targets", "ready", "state", "why"), map(_deployment, deployments)
    )
    replicas = [r | {"of": d["name"]} for d in deployments for r in d.get("replicas", [])]
    if replicas:
        emit("")
        emit_table(
            ("replica", "deployment", "version", "state", "pid", "memory", "served", "queued"),
            (
                (
                    r["id"],
                    r["of"],
                    f"{r['version']}/{r['variant']}",
                    r["state"],
                    r["pid"],
                    size(r.get("rss_bytes")),
                    r.get("served"),
                    r.get("queued"),
                )
                for r in replicas
            ),
        )


def _deployment(d: dict[str, Any]) -> tuple[object, ...]:
    total = sum(t["weight"] for t in d["targets"]) or 1
    shares = len(d["targets"]) > 1
    targets = ", ".join(
        f"{t['version']}/{t['variant']}" + (f" {100 * t['weight'] / total:g}%" if shares else "")
        for t in d["targets"]
    )
    name = d["name"] + (" (default)" if d.get("default") else "")
    return name, d["model"], targets, f"{d['ready']}/{d['desired']}", d["state"], d.get("reason")


def register(app: typer.Typer) -> None:
    app.command("status")(command)
