"""The command `maas`.

The help of `maas` itself comes from a table and imports nothing, so that it answers at once. Typer
and the file of a command are imported when that command runs.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from maas.cli.commands import OK, help_text

if TYPE_CHECKING:
    from collections.abc import Sequence


def main() -> None:
    """Run the console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    first = arguments[0] if arguments else ""  # also empty when a shell asks for completions
    if first == "help" and arguments[1:]:
        arguments = [*arguments[1:], "--help"]  # `maas help keys create`
    elif first in ("--help", "-h", "help"):
        print(help_text())  # noqa: T201
        return OK
    if first == "--version":
        from maas.version import __version__

        print(__version__)  # noqa: T201
        return OK
    from maas.cli.app import run_app

    return run_app(arguments)


if __name__ == "__main__":
    main()
