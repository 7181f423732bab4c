"""The command `maas`: finds the one file that a command line needs, and turns errors into exit
codes.

Help of the whole is written from a table without importing anything, so that it answers
at once; a command's own file, and Typer, are imported when that command is called.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from maas.cli.commands import OK, help_text

if TYPE_CHECKING:
    from collections.abc import Sequence


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs one command line; the exit code."""
    first = arguments[0] if arguments else ""  # empty, too, when a shell asks for completions
    if first in ("--help", "-h", "help"):
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
