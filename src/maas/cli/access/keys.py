"""maas keys: the API keys of callers."""

from __future__ import annotations

from typing import Annotated

import typer

from maas.cli.common import UsageError, add_commands, client_of
from maas.cli.completion import key_ids, scope_lists
from maas.cli.output import Format, OutputOption, emit, emit_json, emit_table, notify, when
from maas.domain.keys import Scope
from maas.domain.names import did_you_mean, shown

group = typer.Typer(help="List, create or revoke API keys.")


@group.callback(invoke_without_command=True)
def main(ctx: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """List, create or revoke API keys."""
    if ctx.invoked_subcommand is None:
        _list(ctx, output)


def list_(ctx: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """List all keys, including revoked ones."""
    _list(ctx, output)


def create(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the person or program that uses the key.")
    ],
    scope: Annotated[
        str,
        typer.Option(
            help="What the key may do: call, read, write or admin; several with commas.",
            autocompletion=scope_lists,
        ),
    ] = "call",
    output: OutputOption = Format.TABLE,
) -> None:
    """Create a key and print its token.

    The token is shown only once; the server stores only its SHA-256 digest.
    """
    created = client_of(ctx).keys.create(name, parsed_scopes(scope))
    if output is Format.JSON:
        emit_json(created.to_dict())
        return
    notify(f"created key {created.key.id} ({name}) with scopes {', '.join(created.key.scopes)}")
    notify("store its token now; it cannot be shown again:")
    emit(created.token)


def parsed_scopes(text: str) -> list[Scope]:
    """The scopes in a list with commas. Raises UsageError for a scope that does not exist."""
    names = [str(scope) for scope in Scope]
    scopes = []
    for word in (part.strip() for part in text.split(",")):
        if word not in names:
            raise UsageError(
                f"--scope must be one or more of {', '.join(names)}; got {shown(word)}"
                f"{did_you_mean(word, names)}",
                field="scope",
            )
        scopes.append(Scope(word))
    return scopes


def revoke(
    ctx: typer.Context,
    key_id: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="Id of the key, from `maas keys list`.", autocompletion=key_ids
        ),
    ],
    output: OutputOption = Format.TABLE,
) -> None:
    """Revoke a key permanently. Gateways refuse it within a second."""
    key = client_of(ctx).keys.revoke(key_id)
    if output is Format.JSON:
        emit_json(key.to_dict())
        return
    notify(f"revoked key {key.id} ({key.name})")


def _list(ctx: typer.Context, output: Format) -> None:
    keys = client_of(ctx).keys.list()
    if output is Format.JSON:
        emit_json([k.to_dict() for k in keys])
        return
    emit_table(
        ("id", "name", "scopes", "created", "revoked"),
        ((k.id, k.name, ",".join(k.scopes), when(k.created_at), when(k.revoked_at)) for k in keys),
    )


add_commands(group, {"list": list_, "create": create, "revoke": revoke})


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="keys")
