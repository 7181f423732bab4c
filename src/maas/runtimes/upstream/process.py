"""A command as a child that lives no longer than who started it, however that ends.

`python -m maas.runtimes.upstream.process FD COMMAND…` runs the command in a process group of its
own and ends the whole group when the pipe FD closes, which it does when the replica ends. An engine
of several processes leaves none behind.
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
"""Between being asked to end and being killed."""
LAST_WORDS_SECONDS = 1.0


class EngineProcess:
    """An engine that runs, its address and its key."""

    def __init__(self, engine: Engine, paths: Mapping[str, Path]) -> None:
        """`paths`: the variant's files by name. Raises InvalidInput if it does not start."""
        self._directory = tempfile.TemporaryDirectory(prefix="maas-engine-")
        for name, path in paths.items():
            (Path(self._directory.name) / name).symlink_to(path.resolve())
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}/v1"
        self.key = secrets.token_urlsafe(32)
        words = {
            "{port}": str(port),
            "{key}": self.key,
            "{directory}": self._directory.name,
            "{model}": str(Path(self._directory.name) / next(iter(paths), "")),
        }
        environment = child_environment()
        for ours in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
            environment.pop(ours, None)
        environment |= {name: _put_in(text, words) for name, text in engine.environment.items()}
        command = [_put_in(word, words) for word in engine.command]
        lifeline, self._held = os.pipe()
        # The guard is ours and needs our import path; the engine gets `environment` only.
        given = "\0".join(f"{name}={value}" for name, value in environment.items())
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
                self._guard.stdin.write(given.encode())
                self._guard.stdin.close()
        self._passing = threading.Thread(target=_pass_on, args=(self._guard.stdout,), daemon=True)
        self._passing.start()

    @property
    def is_running(self) -> bool:
        return self._guard.poll() is None

    def wait(self) -> int:
        return self._guard.wait()

    def close(self) -> None:
        os.close(self._held)
        self._guard.wait()
        # The engine's last words. Not for ever: who left its group may hold the pipe open.
        self._passing.join(LAST_WORDS_SECONDS)
        self._directory.cleanup()


def _pass_on(said: IO[bytes] | None) -> None:
    """What the engine prints goes through us: our log may move to a new file, which an engine that
    had inherited the old one would not notice."""
    if said is None:
        return
    log = sys.stderr.fileno()
    with said:
        while data := os.read(said.fileno(), 1 << 16):
            with contextlib.suppress(OSError):  # a full disk must not stop the engine
                os.write(log, data)


def _put_in(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def checked_program(engine: Engine) -> None:
    """Raises InvalidInput if the command's program is not there."""
    program = Path(engine.command[0])
    if not program.is_absolute() or not os.access(program, os.X_OK):
        raise InvalidInput(
            f"the engine's command must begin with the absolute path of a program; got {program}",
            field="engine",
        )


def main() -> int:
    lifeline, command = int(sys.argv[1]), sys.argv[2:]
    given = sys.stdin.buffer.read().decode()
    environment = dict(pair.split("=", 1) for pair in given.split("\0") if pair)
    child = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
    )
    # Whoever ends the replica's group must not end this guard before its work is done.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    while child.poll() is None:
        closed, _, _ = select.select([lifeline], [], [], POLL_SECONDS)
        if closed:
            break
    _end_group(child)
    return 0


def _end_group(child: subprocess.Popen[bytes]) -> None:
    for number, patience in ((signal.SIGTERM, TERM_SECONDS), (signal.SIGKILL, TERM_SECONDS)):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            return
        until = time.monotonic() + patience
        while child.poll() is None and time.monotonic() < until:
            time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
