"""Log rotation at a size limit: no retained line is lost, and readers see one log."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from maas.cli.server.logs import new_lines
from maas.storage.log_files import LogFile, LogFolder, log_tail, older, remove_log

LIMIT = 2000
ALL = 1 << 20

# Alternates between logging, print, and writes to stderr as a native library does.
WRITER = """
import logging, os, sys
from maas.storage.log_files import LogFile, OutputToLogFile
output = OutputToLogFile(LogFile.from_arguments(sys.argv[2:]))
logging.basicConfig(handlers=[output], format="%(message)s", level="INFO")
for number in range(int(sys.argv[1])):
    text = f"line {number:04d} {'x' * 80}"
    [logging.info, print, lambda t: os.write(2, f"{t}\\n".encode())][number % 3](text)
    sys.stdout.flush()
"""


def write(log: LogFile, lines: int) -> subprocess.Popen[bytes]:
    output = log.open()
    try:
        command = [sys.executable, "-c", WRITER, str(lines), *log.arguments()[1:]]
        return subprocess.Popen(command, stdout=output, stderr=output)
    finally:
        os.close(output)


def numbers(text: str) -> list[int]:
    return [int(line.split()[1]) for line in text.splitlines()]


def test_no_line_is_lost_within_the_limits_and_no_file_exceeds_its_limit(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "control.log", LIMIT, 100)
    assert write(log, 300).wait(30) == 0
    tail = log_tail(log.path, 1000, ALL) or b""
    assert numbers(tail.decode()) == list(range(300))
    sizes = [path.stat().st_size for path in (log.path, *(old for _, old in older(log.path)))]
    # Two of three lines bypass logging; the size is checked with the third.
    assert len(sizes) > 10 and max(sizes) < LIMIT + 300


def test_the_newest_files_remain_up_to_the_limit(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "control.log", LIMIT, 3)
    assert write(log, 300).wait(30) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "control.log",
        "control.log.1",
        "control.log.2",
    ]
    remaining = numbers((log_tail(log.path, 1000, ALL) or b"").decode())
    assert remaining == list(range(remaining[0], 300)) and len(remaining) > LIMIT * 2 // 100
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())
    # A lower limit removes files at the next start of the process.
    os.close(LogFile(log.path, LIMIT, 2).open())
    assert len(list(tmp_path.iterdir())) <= 2


def test_a_follower_sees_each_line_once(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "gateway.log", LIMIT, 100)
    writer = write(log, 2000)
    seen: list[str] = []
    before: list[str] = []
    for is_last in itertools.chain(iter(lambda: writer.poll() is not None, True), (True,)):
        now = (log_tail(log.path, 2500, ALL) or b"").decode().splitlines()
        if not is_last and now:
            now.pop()  # the last line may be incomplete
        seen += new_lines(before, now) if now else []
        before = now or before
    assert writer.returncode == 0
    assert numbers("\n".join(seen)) == list(range(2000))


def test_output_continues_in_a_log_that_cannot_rotate(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "r-1.log", LIMIT, 3)
    log.path.with_name("r-1.log.new").mkdir()
    assert write(log, 100).wait(30) == 0
    assert numbers(log.path.read_text()) == list(range(100))
    log.path.with_name("r-1.log.new").rmdir()
    assert write(log, 1).wait(30) == 0  # full when it starts
    assert numbers(log.path.read_text()) == [0]
    assert numbers((log_tail(log.path, 2, ALL) or b"").decode()) == [99, 0]


@pytest.mark.parametrize("fails", range(4))
def test_a_rotation_that_fails_midway_is_undone(
    tmp_path: Path, fails: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = LogFile(tmp_path / "r-1.log", LIMIT, 3)
    texts = {"r-1.log": "new", "r-1.log.1": "old", "r-1.log.2": "oldest"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    calls = itertools.count()

    def broken(source: Path, target: Path, rename: Any = Path.rename) -> Path:
        if next(calls) == fails:
            raise OSError("no")
        return rename(source, target)  # type: ignore[no-any-return]

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(OSError, match="no"):
        log.rotate()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == texts
    os.close(log.rotate())
    texts = {"r-1.log": "", "r-1.log.1": "new", "r-1.log.2": "old"}
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == texts


def test_a_rotation_does_not_write_to_an_existing_file(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "r-1.log", LIMIT, 3)
    os.close(log.open())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    log.path.with_name("r-1.log.new").symlink_to(elsewhere)
    descriptor = log.rotate()
    os.write(descriptor, b"line\n")
    os.close(descriptor)
    assert elsewhere.read_text() == "mine" and not log.path.is_symlink()
    assert log.path.read_text() == "line\n"


@pytest.mark.parametrize(
    ("lines", "most", "expected"),
    [(1, ALL, b"e\n"), (3, ALL, b"c\nd\ne\n"), (9, ALL, b"a\nb\nc\nd\ne\n"), (9, 5, b"d\ne\n")],
)
def test_the_tail_of_a_log_includes_older_files(
    tmp_path: Path, lines: int, most: int, expected: bytes
) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"e\n")
    path.with_name("a.log.1").write_bytes(b"c\nd\n")
    path.with_name("a.log.2").write_bytes(b"a\nb\n")
    path.with_name("a.log.old").write_bytes(b"not ours\n")
    assert log_tail(path, lines, most) == expected


def test_a_missing_log_differs_from_an_empty_one(tmp_path: Path) -> None:
    log = LogFolder(tmp_path, LIMIT, 3).file("r-2")
    assert log_tail(log.path, 1, ALL) is None
    os.close(log.open())
    assert log_tail(log.path, 1, ALL) == b""
    os.close(log.rotate())
    remove_log(log.path)
    assert not list(tmp_path.iterdir())
