"""Settings and client of a command, from the flags before it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from maas import settings
from maas.domain.errors import InvalidInput

if TYPE_CHECKING:
    from maas.client.client import Client


class UsageError(InvalidInput):
    """The arguments of a command do not fit together."""


@dataclass(frozen=True)
class Flags:
    """The flags before the command."""

    home: str | None = None
    base_url: str | None = None


def add_commands(group: typer.Typer, functions: Mapping[str, Callable[..., None]]) -> None:
    """Add the subcommands of a group.

    The summary in the help of the group is the first line of the docstring, whole: Typer's own
    summary is cut at the width of the terminal.
    """
    for name, function in functions.items():
        summary = inspect.getdoc(function) or ""
        group.command(name, short_help=summary.partition("\n")[0])(function)


def settings_of(ctx: typer.Context, **overrides: Any) -> settings.Settings:
    """The settings with this command line's flags; `overrides` as `server__port=9000`."""
    flags: Flags = ctx.obj or Flags()
    dotted = {name.replace("__", "."): value for name, value in overrides.items()}
    return settings.load(
        {"home": dotted.pop("home", None) or flags.home, "client.base_url": flags.base_url} | dotted
    )


def client_of(ctx: typer.Context, timeout: float = 30.0, retries: int = 2) -> Client:
    """A client for the server that settings and flags name."""
    from maas.client.client import Client

    configured = settings_of(ctx)
    return Client(configured.base_url, configured.api_key, timeout=timeout, retries=retries)
