"""The Typer application, with only the commands that a command line may use."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from maas.cli import commands as codes
from maas.cli.commands import COMMANDS, SUBCOMMANDS, help_text
from maas.cli.common import Flags, UsageError
from maas.cli.errors import TyperUsageError, exit_code, help_hint, os_error_text, usage_message
from maas.cli.output import emit, notify
from maas.cli.registration import register
from maas.domain.errors import MaasError
from maas.settings import ConfigurationError


def build_app(names: Sequence[str]) -> typer.Typer:
    """The application with the commands `names`."""
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
    """Run one command line. Returns the exit code; errors are printed on stderr."""
    names = [arguments[0]] if arguments and arguments[0] in COMMANDS else list(COMMANDS)
    try:
        code = build_app(names)(args=list(arguments), prog_name="maas", standalone_mode=False)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else codes.FAILED
    except ConfigurationError as error:
        notify(f"error: {error}")
        return codes.CONFIGURATION
    except (KeyboardInterrupt, typer.Abort):
        return codes.INTERRUPTED
    except MaasError as error:
        notify(f"error: {error.message}")
        if isinstance(error, UsageError):
            notify(help_hint(error, _command_line(arguments)))
        return exit_code(error)
    except OSError as error:
        # Files that the user named; errors of the server are MaasErrors.
        notify(f"error: {os_error_text(error)}")
        return codes.FAILED
    except TyperUsageError as error:
        notify(f"error: {usage_message(error)}")
        notify(help_hint(error, "maas"))
        return codes.USAGE
    return code if isinstance(code, int) else codes.OK


def _command_line(arguments: Sequence[str]) -> str:
    """`maas keys create`: the command of a command line, without options and arguments."""
    for at, word in enumerate(arguments):
        if word in COMMANDS:
            following = arguments[at + 1 : at + 2]
            is_subcommand = following and following[0] in SUBCOMMANDS.get(word, ())
            return f"maas {word} {following[0]}" if is_subcommand else f"maas {word}"
    return "maas"


def _flags(
    ctx: typer.Context,
    home: Annotated[Path | None, typer.Option(help="Directory that contains all state.")] = None,
    base_url: Annotated[str | None, typer.Option(help="URL of the server.")] = None,
) -> None:
    """Serve models: build, evaluate, optimize, publish, deploy, predict, explain."""
    ctx.obj = Flags(str(home) if home else None, base_url)
    if ctx.invoked_subcommand is None:
        emit(help_text())


if __name__ == "__main__":
    sys.exit(run_app(sys.argv[1:]))
