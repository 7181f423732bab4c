"""maas usage: what each key used."""

from __future__ import annotations

from typing import Annotated

import typer

from maas.cli.common import Format, OutputOption, client_of, emit_json, emit_table


def command(
    ctx: typer.Context,
    key: Annotated[str | None, typer.Option(help="Only this key (id).")] = None,
    deployment: Annotated[str | None, typer.Option(help="Only this deployment.")] = None,
    since: Annotated[str | None, typer.Option(help="From this day on (UTC), YYYY-MM-DD.")] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show what each key used, per deployment, operation and day (UTC)."""
    usage = client_of(ctx).usage(key=key, deployment=deployment, since=since)
    if output is Format.JSON:
        emit_json(usage)
        return
    emit_table(
        (
            "day",
            "key",
            "name",
            "deployment",
            "operation",
            "requests",
            "rows",
            "errors",
            "compute",
            "tokens in",
            "tokens out",
        ),
        (
            (
                u["day"],
                u["key_id"],
                u.get("key_name"),
                u["deployment"],
                u["operation"],
                u["requests"],
                u["rows"],
                u["errors"],
                f"{u['compute_us'] / 1e6:.3f} s",
                u.get("prompt_tokens", 0),
                u.get("completion_tokens", 0),
            )
            for u in usage
        ),
    )


def register(app: typer.Typer) -> None:
    app.command("usage")(command)
