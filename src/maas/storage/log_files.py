"""Logs that stay small: a process begins its file anew at a limit and keeps a few old ones.

Whoever starts a process opens its log, so that nothing is lost that it says before it can log. From
then on the process itself turns its file over, with all that it prints, because only it can move
its own stdout and stderr to the new file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TextIO

LOOK_EVERY_S = 1.0
"""How often a file is looked at that something else than our logging may fill."""


@dataclass(frozen=True)
class LogFile:
    """`path`, and beside it the older `path.1`, `path.2`, … of the same process."""

    path: Path
    max_bytes: int
    files: int
    """Kept at most, with the one that is written; at least 2."""

    def open(self) -> int:
        """A file descriptor to append to. Of a log that is full, a new file."""
        self._drop_old()
        if self.path.exists() and self.path.stat().st_size >= self.max_bytes:
            return self.turn()
        return _open_private(self.path)

    def turn(self) -> int:
        """Begins a new file; returns its descriptor. Raises OSError, and then all is as before."""
        new = self.path.with_name(f"{self.path.name}.new")
        new.unlink(missing_ok=True)  # of a process that was killed here
        descriptor = _open_private(new, os.O_EXCL | os.O_NOFOLLOW)
        try:
            self._move_names(new)
        except OSError:
            os.close(descriptor)
            new.unlink(missing_ok=True)
            raise
        return descriptor

    def _move_names(self, new: Path) -> None:
        """Only the names: whoever writes the file writes on in it until it has the new one.

        No file goes before all have moved, and who moved goes back if another cannot: else a log
        that fails here at every line would lose an old file with each.
        """
        numbers = sorted((number for number, _ in older(self.path)), reverse=True)
        moves = [(self._older(n), self._older(n + 1)) for n in numbers]
        if self.path.exists():
            moves.append((self.path, self._older(1)))
        moves.append((new, self.path))
        moved: list[tuple[Path, Path]] = []
        try:
            for source, target in moves:
                source.rename(target)
                moved.append((source, target))
        except OSError:
            for source, target in reversed(moved):
                with contextlib.suppress(OSError):
                    target.rename(source)
            raise
        self._drop_old()

    def _drop_old(self) -> None:
        for number, old in older(self.path):
            if number >= self.files:
                with contextlib.suppress(OSError):  # the next turn or start tries again
                    old.unlink(missing_ok=True)

    def _older(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def arguments(self) -> list[str]:
        """For the command line of a process that is to write it; `from_arguments` reads them."""
        return ["--log", str(self.path), str(self.max_bytes), str(self.files)]

    @classmethod
    def from_arguments(cls, given: list[str]) -> LogFile:
        path, max_bytes, files = given
        return cls(Path(path), int(max_bytes), int(files))


@dataclass(frozen=True)
class LogFolder:
    """Where processes log, and within which limits each of them."""

    path: Path
    max_bytes: int
    files: int

    def file(self, process: str) -> LogFile:
        return LogFile(self.path / f"{process}.log", self.max_bytes, self.files)


class OutputToLogFile(logging.StreamHandler[TextIO]):
    """Log lines of this process, and everything else that it and its libraries print.

    One per process: its stdout and stderr are the file, and follow it into each new one.
    """

    def __init__(self, log: LogFile) -> None:
        super().__init__(sys.stderr)
        self._log = log
        _send_output_to(log.open())

    def watch(self) -> None:
        """Look at the size now and then as well, for what is printed and not logged."""
        threading.Thread(target=self._watch, name="log", daemon=True).start()

    def turn_if_full(self) -> None:
        """If there can be no new file, the old one is written on."""
        self.acquire()
        try:
            with contextlib.suppress(OSError):
                if os.fstat(2).st_size >= self._log.max_bytes:
                    _send_output_to(self._log.turn())
        finally:
            self.release()

    def emit(self, record: logging.LogRecord) -> None:
        self.turn_if_full()
        super().emit(record)

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK_EVERY_S)
            self.turn_if_full()


def older(path: Path) -> Iterator[tuple[int, Path]]:
    """(n, `path.n`) of the older files of a log, in no order."""
    for old in path.parent.glob(f"{path.name}.*"):
        number = old.name.removeprefix(f"{path.name}.")
        if number.isdecimal():
            yield int(number), old


def remove_log(path: Path) -> None:
    for _, old in older(path):
        old.unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def log_tail(path: Path, lines: int, most_bytes: int) -> bytes | None:
    """The last lines of a log, also those in its older files; None if there is no such log.

    Whole lines, `most_bytes` together at most.
    """
    with contextlib.ExitStack() as stack:
        files = _opened(path, stack)
        if not files:
            return None
        pieces: list[bytes] = []
        left, is_cut, found = most_bytes, False, 0
        for file in files:
            start = max(0, file.seek(0, os.SEEK_END) - left)
            file.seek(start)
            pieces.append(file.read(left))
            left -= len(pieces[-1])
            found += pieces[-1].count(b"\n")
            is_cut = start > 0
            if is_cut or found > lines:
                break
    data = b"".join(reversed(pieces))
    if is_cut:
        data = data[data.find(b"\n") + 1 :]
    return b"".join(data.splitlines(keepends=True)[-lines:])


def _opened(path: Path, stack: contextlib.ExitStack) -> list[IO[bytes]]:
    """The files of a log, newest first; each once, also if they are renamed meanwhile."""
    # From new to old, the way in which names move: one may be met twice, none is missed.
    listed = max((number for number, _ in older(path)), default=0)
    files: dict[int, IO[bytes]] = {}
    number = missing = 0
    # A list may lack names that move while it is made: the end is where nothing comes any more.
    while number <= listed or missing < 2:
        name = path.with_name(f"{path.name}.{number}") if number else path
        number, missing = number + 1, missing + 1
        with contextlib.suppress(OSError):
            file = stack.enter_context(name.open("rb"))
            missing = 0
            known = os.fstat(file.fileno()).st_ino
            if known in files:
                # It moved on to here. What was met since is newer than it, or comes again.
                while next(reversed(files)) != known:
                    files.popitem()
            else:
                files[known] = file
    return list(files.values())


def _send_output_to(descriptor: int) -> None:
    for output in (1, 2):
        os.dup2(descriptor, output)
    os.close(descriptor)


def _open_private(path: Path, flags: int = 0) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
