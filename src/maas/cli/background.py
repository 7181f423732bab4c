"""Processes that outlive the command that starts them."""

from __future__ import annotations

import subprocess
import sys
from typing import IO

from maas.settings import Settings, child_environment


def start_in_background(
    arguments: list[str], settings: Settings, log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start `python -m ARGUMENTS` in a session of its own, so that Ctrl-C here does not reach it.

    Its output goes to `log`. The settings go to its stdin, because command lines and environments
    are visible in lists of processes.
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
