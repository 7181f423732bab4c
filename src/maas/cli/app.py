"""The Typer application, with only the commands that a command line can mean."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from maas.cli import commands as codes
from maas.cli.commands import COMMANDS, help_text
from maas.cli.common import Flags, emit, say
from maas.cli.registration import register
from maas.domain.errors import (
    Conflict,
    Forbidden,
    MaasError,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from maas.settings import ConfigurationError

_CODES: tuple[tuple[type[MaasError], int], ...] = (
    (NotFound, codes.NOT_FOUND),
    (Unauthenticated, codes.AUTH),
    (Forbidden, codes.AUTH),
    (Conflict, codes.CONFLICT),
    (Unavailable, codes.UNAVAILABLE),
)


def build_app(names: Sequence[str]) -> typer.Typer:
    """The application with these commands; each file of this package adds its own."""
    app = typer.Typer(
        name="maas",
        add_completion=len(names) > 1,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_flags)
    for name in names:
        register(name, app)
    return app


def run_app(arguments: Sequence[str]) -> int:
    """Runs one command line and turns what it raises into a message and an exit code."""
    names = [arguments[0]] if arguments and arguments[0] in COMMANDS else list(COMMANDS)
    try:
        build_app(names)(args=list(arguments), prog_name="maas")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else codes.FAILED
    except ConfigurationError as wrong:
        say(f"error: {wrong}")
        return codes.CONFIGURATION
    except KeyboardInterrupt:
        return codes.INTERRUPTED
    except MaasError as error:
        say(f"error: {error.message}")
        return exit_code(error)
    return codes.OK


def exit_code(error: MaasError) -> int:
    return next((code for kind, code in _CODES if isinstance(error, kind)), codes.FAILED)


def _flags(
    ctx: typer.Context,
    home: Annotated[Path | None, typer.Option(help="Directory of all state.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Server to talk to.")] = None,
) -> None:
    """Turn a model into a service: build, evaluate, publish, deploy, call, explain."""
    ctx.obj = Flags(str(home) if home else None, base_url)
    if ctx.invoked_subcommand is None:
        emit(help_text())


if __name__ == "__main__":
    sys.exit(run_app(sys.argv[1:]))
