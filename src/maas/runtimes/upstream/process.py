"""Runs an engine's command as a child that never outlives the replica.

`python -m maas.runtimes.upstream.process FD COMMAND…` is the guard process: it runs the command in
a process group of its own and terminates the group when the pipe FD closes, which happens when the
replica exits, for whatever reason. An engine of several processes leaves none behind.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from maas.domain.errors import InvalidInput
from maas.runtimes.upstream.config import Engine
from maas.settings import child_environment

POLL_SECONDS = 0.2
TERM_SECONDS = 5.0
"""Seconds between SIGTERM and SIGKILL."""
LAST_OUTPUT_SECONDS = 1.0
"""Timeout for the rest of the engine's output after its exit."""


class EngineProcess:
    """A running engine, its URL and its API key."""

    def __init__(self, engine: Engine, paths: Mapping[str, Path]) -> None:
        """`paths`: the variant's files by name. Raises InvalidInput if it does not start."""
        self._directory = tempfile.TemporaryDirectory(prefix="maas-engine-")
        for name, path in paths.items():
            (Path(self._directory.name) / name).symlink_to(path.resolve())
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}/v1"
        self.key = secrets.token_urlsafe(32)
        replacements = {
            "{port}": str(port),
            "{key}": self.key,
            "{directory}": self._directory.name,
            "{model}": str(Path(self._directory.name) / next(iter(paths), "")),
        }
        environment = child_environment()
        for ours in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
            environment.pop(ours, None)
        environment |= {
            name: _replaced(text, replacements) for name, text in engine.environment.items()
        }
        command = [_replaced(word, replacements) for word in engine.command]
        lifeline, self._lifeline = os.pipe()
        # The guard needs this process's import path; the engine gets `environment` only.
        pairs = "\0".join(f"{name}={value}" for name, value in environment.items())
        with os.fdopen(lifeline, "rb") as inherited:
            self._guard = subprocess.Popen(
                [sys.executable, "-m", __name__, str(lifeline), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(inherited.fileno(),),
            )
        if self._guard.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._guard.stdin.write(pairs.encode())
                self._guard.stdin.close()
        self._copier = threading.Thread(
            target=_copy_to_log, args=(self._guard.stdout,), daemon=True
        )
        self._copier.start()

    @property
    def is_running(self) -> bool:
        return self._guard.poll() is None

    def wait(self) -> int:
        return self._guard.wait()

    def close(self) -> None:
        os.close(self._lifeline)
        self._guard.wait()
        # Not for ever: a process that left the group may keep the pipe open.
        self._copier.join(LAST_OUTPUT_SECONDS)
        self._directory.cleanup()


def _copy_to_log(output: IO[bytes] | None) -> None:
    """Copies the engine's output to stderr. The engine does not inherit stderr, since it would not
    notice when the replica's log moves to a new file."""
    if output is None:
        return
    log = sys.stderr.fileno()
    with output:
        while data := os.read(output.fileno(), 1 << 16):
            with contextlib.suppress(OSError):  # a full disk must not stop the engine
                os.write(log, data)


def _replaced(text: str, replacements: dict[str, str]) -> str:
    for word, value in replacements.items():
        text = text.replace(word, value)
    return text


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def checked_program(engine: Engine) -> None:
    """Raises InvalidInput unless the command's program exists and is executable."""
    program = Path(engine.command[0])
    if not program.is_absolute() or not os.access(program, os.X_OK):
        raise InvalidInput(
            f"the engine's command must begin with the absolute path of a program; got {program}",
            field="engine",
        )


def main() -> int:
    """Runs the guard process."""
    lifeline, command = int(sys.argv[1]), sys.argv[2:]
    pairs = sys.stdin.buffer.read().decode().split("\0")
    environment = dict(pair.split("=", 1) for pair in pairs if pair)
    child = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
    )
    # A signal to the replica's process group must not end the guard before its work is done.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    while child.poll() is None:
        closed, _, _ = select.select([lifeline], [], [], POLL_SECONDS)
        if closed:
            break
    _terminate_group(child)
    return 0


def _terminate_group(child: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            return
        until = time.monotonic() + TERM_SECONDS
        while child.poll() is None and time.monotonic() < until:
            time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
