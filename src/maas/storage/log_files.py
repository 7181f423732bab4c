"""Log rotation: each process rotates its own log file at a size limit and keeps a few old ones.

The parent opens the log of a process before it starts it, so that early output is not lost. From
then on the process rotates its file itself, because only it can redirect its own stdout and stderr
to the new file.
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

CHECK_EVERY_S = 1.0
"""Interval of size checks for output that does not pass through logging."""


@dataclass(frozen=True)
class LogFile:
    """The log of a process: `path`, and the older files `path.1`, `path.2`, …"""

    path: Path
    max_bytes: int
    files: int
    """Maximum number of files, including the current one; at least 2."""

    def open(self) -> int:
        """A file descriptor to append to; rotates a full log first."""
        self._drop_old()
        if self.path.exists() and self.path.stat().st_size >= self.max_bytes:
            return self.rotate()
        return _open_private(self.path)

    def rotate(self) -> int:
        """Starts a new file; returns its descriptor. Raises OSError and then changes nothing."""
        new = self.path.with_name(f"{self.path.name}.new")
        new.unlink(missing_ok=True)  # left by a process that was killed during a rotation
        descriptor = _open_private(new, os.O_EXCL | os.O_NOFOLLOW)
        try:
            self._move_names(new)
        except OSError:
            os.close(descriptor)
            new.unlink(missing_ok=True)
            raise
        return descriptor

    def _move_names(self, new: Path) -> None:
        """Renames the files. A process that writes the old file keeps writing to it.

        Old files are removed only after all renames succeeded, and a failed rename undoes the
        previous ones. Otherwise a log whose rotation fails would lose an old file with every line.
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
                with contextlib.suppress(OSError):  # the next rotation or start tries again
                    old.unlink(missing_ok=True)

    def _older(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def arguments(self) -> list[str]:
        """Command-line arguments for the process that writes this log; see `from_arguments`."""
        return ["--log", str(self.path), str(self.max_bytes), str(self.files)]

    @classmethod
    def from_arguments(cls, arguments: list[str]) -> LogFile:
        path, max_bytes, files = arguments
        return cls(Path(path), int(max_bytes), int(files))


@dataclass(frozen=True)
class LogFolder:
    """Folder of all logs, and the limits of each."""

    path: Path
    max_bytes: int
    files: int

    def file(self, process: str) -> LogFile:
        return LogFile(self.path / f"{process}.log", self.max_bytes, self.files)


class OutputToLogFile(logging.StreamHandler[TextIO]):
    """Handler that logs to a file and redirects stdout and stderr of this process to it.

    At most one per process. A rotation redirects the output to the new file.
    """

    def __init__(self, log: LogFile) -> None:
        super().__init__(sys.stderr)
        self._log = log
        _send_output_to(log.open())

    def watch(self) -> None:
        """Starts a thread that checks the size, for output that does not pass through logging."""
        threading.Thread(target=self._watch, name="log", daemon=True).start()

    def rotate_if_full(self) -> None:
        """Rotates a full log. If that fails, output continues in the present file."""
        self.acquire()
        try:
            with contextlib.suppress(OSError):
                if os.fstat(2).st_size >= self._log.max_bytes:
                    _send_output_to(self._log.rotate())
        finally:
            self.release()

    def emit(self, record: logging.LogRecord) -> None:
        self.rotate_if_full()
        super().emit(record)

    def _watch(self) -> None:
        while True:
            time.sleep(CHECK_EVERY_S)
            self.rotate_if_full()


def older(path: Path) -> Iterator[tuple[int, Path]]:
    """(n, `path.n`) of each older file of a log, unordered."""
    for old in path.parent.glob(f"{path.name}.*"):
        number = old.name.removeprefix(f"{path.name}.")
        if number.isdecimal():
            yield int(number), old


def remove_log(path: Path) -> None:
    """Removes a log with its older files."""
    for _, old in older(path):
        old.unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def log_tail(path: Path, lines: int, most_bytes: int) -> bytes | None:
    """The last `lines` lines of a log and its older files; None if there is no such log.

    Returns complete lines, together at most `most_bytes`.
    """
    with contextlib.ExitStack() as stack:
        files = _opened(path, stack)
        if not files:
            return None
        pieces: list[bytes] = []
        left, is_cut, newlines = most_bytes, False, 0
        for file in files:
            start = max(0, file.seek(0, os.SEEK_END) - left)
            file.seek(start)
            pieces.append(file.read(left))
            left -= len(pieces[-1])
            newlines += pieces[-1].count(b"\n")
            is_cut = start > 0
            if is_cut or newlines > lines:
                break
    data = b"".join(reversed(pieces))
    if is_cut:
        data = data[data.find(b"\n") + 1 :]
    return b"".join(data.splitlines(keepends=True)[-lines:])


def _opened(path: Path, stack: contextlib.ExitStack) -> list[IO[bytes]]:
    """The files of a log, newest first; each once, even if a rotation renames them meanwhile."""
    # From new to old, the direction of renames: a file may appear twice, but none is missed.
    listed = max((number for number, _ in older(path)), default=0)
    files: dict[int, IO[bytes]] = {}
    number = missing = 0
    # `listed` may be too low if a rotation ran meanwhile, so two missing names mark the end.
    while number <= listed or missing < 2:
        name = path.with_name(f"{path.name}.{number}") if number else path
        number, missing = number + 1, missing + 1
        with contextlib.suppress(OSError):
            file = stack.enter_context(name.open("rb"))
            missing = 0
            inode = os.fstat(file.fileno()).st_ino
            if inode in files:
                # It was renamed to this name. Files opened since are newer, or will appear again.
                while next(reversed(files)) != inode:
                    files.popitem()
            else:
                files[inode] = file
    return list(files.values())


def _send_output_to(descriptor: int) -> None:
    for output in (1, 2):
        os.dup2(descriptor, output)
    os.close(descriptor)


def _open_private(path: Path, flags: int = 0) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
