"""Check at the start that the paths of replica sockets will not be too long."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from maas.settings import ConfigurationError

LONGEST_SOCKET_PATH = 103 if sys.platform == "darwin" else 107
"""Limit of the operating system, in bytes."""


def check_socket_paths(run_dir: Path) -> None:
    """Raises ConfigurationError if the path of a replica's socket would be too long."""
    limit = LONGEST_SOCKET_PATH - len("/r-00000000.sock")
    size = len(os.fsencode(run_dir))
    if size > limit:
        raise ConfigurationError(
            f"MAAS_HOME is too long for unix sockets: {run_dir} must have at most {limit} bytes; "
            f"got {size}"
        )
