"""maas usage: requests, rows and tokens per key."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from maas.cli.common import client_of
from maas.cli.completion import deployment_names, key_ids
from maas.cli.output import Format, OutputOption, emit_json, emit_table
from maas.domain.numbers import format_number

HEADINGS = (
    "day", "key", "name", "deployment", "operation", "requests", "rows", "errors", "compute",
    "tokens in", "tokens out",
)  # fmt: skip


def command(
    ctx: typer.Context,
    key: Annotated[
        str | None, typer.Option(help="Only the key with this id.", autocompletion=key_ids)
    ] = None,
    deployment: Annotated[
        str | None, typer.Option(help="Only this deployment.", autocompletion=deployment_names)
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="DAY", help="First day to show (UTC), as YYYY-MM-DD.")
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show requests, rows and tokens per key, deployment, operation and day (UTC)."""
    usage = client_of(ctx).usage(key=key, deployment=deployment, since=since)
    if output is Format.JSON:
        emit_json(usage)
        return
    emit_table(HEADINGS, map(_row, usage))


def _row(line: dict[str, Any]) -> tuple[object, ...]:
    return (
        line["day"],
        line["key_id"],
        line.get("key_name"),
        line["deployment"],
        line["operation"],
        format_number(line["requests"]),
        format_number(line["rows"]),
        format_number(line["errors"]),
        format_number(line["compute_us"] / 1e6, "s"),
        format_number(line.get("prompt_tokens", 0)),
        format_number(line.get("completion_tokens", 0)),
    )


def register(app: typer.Typer) -> None:
    app.command("usage")(command)
