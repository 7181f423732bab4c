"""maas keys: who may call."""

from __future__ import annotations

from typing import Annotated

import typer

from maas.cli.common import Format, OutputOption, client_of, emit, emit_json, emit_table, say, when

group = typer.Typer(help="Create, list or revoke the keys of callers.", no_args_is_help=True)


@group.command()
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Who or what will call with it.")],
    scope: Annotated[
        str, typer.Option(help="What it may do: call, read, write, admin; several with commas.")
    ] = "call",
    output: OutputOption = Format.TABLE,
) -> None:
    """Create a key and print its token, which is shown this once."""
    scopes = [s.strip() for s in scope.split(",") if s.strip()]
    created = client_of(ctx).keys.create(name, scopes)
    if output is Format.JSON:
        emit_json(created.to_dict())
        return
    say(f"key {created.key.id} ({name}) may: {', '.join(created.key.scopes)}")
    say("its token, which nobody can show again:")
    emit(created.token)


@group.command("list")
def list_(ctx: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """List all keys."""
    keys = client_of(ctx).keys.list()
    if output is Format.JSON:
        emit_json([k.to_dict() for k in keys])
        return
    emit_table(
        ("id", "name", "scopes", "created", "revoked"),
        ((k.id, k.name, ",".join(k.scopes), when(k.created_at), when(k.revoked_at)) for k in keys),
    )


@group.command()
def revoke(
    ctx: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="From `maas keys list`.")],
    output: OutputOption = Format.TABLE,
) -> None:
    """Refuse a key from now on."""
    key = client_of(ctx).keys.revoke(key_id)
    if output is Format.JSON:
        emit_json(key.to_dict())
        return
    say(f"key {key.id} ({key.name}) is revoked")


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="keys")
