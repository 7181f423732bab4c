"""Unix sockets have short paths; better to say so at the start than at the first replica."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from maas.settings import ConfigurationError

LONGEST_SOCKET_PATH = 103 if sys.platform == "darwin" else 107
"""Bytes, as the operating system has it."""


def check_socket_paths(run_dir: Path) -> None:
    """Raises ConfigurationError if a replica's socket would have too long a path."""
    room = LONGEST_SOCKET_PATH - len("/r-00000000.sock")
    if len(os.fsencode(run_dir)) > room:
        raise ConfigurationError(
            f"MAAS_HOME is too long for unix sockets: {run_dir} must have at most {room} bytes"
        )
