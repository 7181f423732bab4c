"""Processes of ours that live on when the command that started them has ended."""

from __future__ import annotations

import subprocess
import sys
from typing import IO

from maas.settings import Settings, child_environment


def start_in_background(
    arguments: list[str], settings: Settings, log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """`python -m ARGUMENTS`, with `log` for all that it prints; Ctrl-C here does not reach it.

    Settings come on its stdin, where no list of processes shows them.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=child_environment(),
        start_new_session=True,
    )
    if process.stdin is not None:
        process.stdin.write(settings.to_json().encode())
        process.stdin.close()
    return process
