"""maas version: the version of this package."""

from __future__ import annotations

import typer

from maas.cli.output import emit
from maas.version import __version__


def command() -> None:
    """Print the version."""
    emit(__version__)


def register(app: typer.Typer) -> None:
    app.command("version")(command)
