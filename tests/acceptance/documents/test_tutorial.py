"""docs/tutorial: every block is run in order, and prints what the page says that it prints.

```bash and ```python blocks are run, each kind in one session of its own; `no-run` after the
language leaves one out. A ```text block right after one is what it prints on stdout, where `…`
stands for anything within a line, and lines after the last one are not compared.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.servers.maas import free_port

DOCS = Path(__file__).resolve().parents[3] / "docs"
BLOCK = re.compile(r"^```(\w+)( no-run)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Runs what it reads, and says after each block that it is done and how.
BASH = 'while IFS= read -r -d "" block; do eval "$block"; printf "\\0%d\\0" $?; done'
PYTHON = """
import json, sys, traceback
names = {}
for line in sys.stdin:
    code = 0
    try:
        exec(json.loads(line), names)
    except BaseException:
        traceback.print_exc()
        code = 1
    print(f"\\0{code}\\0", end="", flush=True)
"""


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int
    printed: str | None


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = list(BLOCK.finditer(text))
    assert text.count("\n```") == 2 * len(found), f"{page}: a block is not closed"
    blocks = []
    for number, match in enumerate(found):
        follows = found[number + 1] if number + 1 < len(found) else None
        output = follows is not None and follows[1] == "text" and follows.start() == match.end() + 1
        if match[1] != "text" and not match[2]:
            line = text.count("\n", 0, match.start()) + 1
            blocks.append(
                Block(match[1], match[3], line, follows[3] if output and follows else None)
            )
    return blocks


def matches(printed: str, expected: str) -> bool:
    """Whether the lines of `expected` are the first of `printed`, each with `…` for anything."""
    lines, wanted = printed.splitlines(), expected.splitlines()
    return len(lines) >= len(wanted) and all(
        re.fullmatch(".*".join(map(re.escape, pattern.split("…"))), line.rstrip())
        for pattern, line in zip(wanted, lines, strict=False)
    )


class Session:
    """A shell or an interpreter that runs one block after another."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self._errors = (folder / f"{command[0].rpartition('/')[2]}.err").open("w+")
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    def run(self, sent: bytes) -> tuple[int, str, str]:
        """(code, stdout, stderr)"""
        assert self._process.stdin is not None
        self._process.stdin.write(sent)
        self._process.stdin.flush()
        before = self._errors.tell()
        output, code = self._until_zero(), int(self._until_zero() or 1)
        self._errors.seek(before)
        return code, output, self._errors.read()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)
        self._errors.close()

    def _until_zero(self) -> str:
        assert self._process.stdout is not None
        found = bytearray()
        while (byte := self._process.stdout.read(1)) not in (b"\0", b""):
            found += byte
        return found.decode()


@pytest.fixture
def folder() -> Iterator[Path]:
    """HOME and working directory of the reader."""
    # Short, because the path of a unix socket has at most 107 bytes.
    path = Path(tempfile.mkdtemp(prefix="tut"))
    (path / "bin").mkdir()
    maas = path / "bin" / "maas"
    maas.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m maas.cli.main "$@"\n')
    maas.chmod(0o755)
    yield path
    subprocess.run([maas, "--home", path / ".maas", "down"], capture_output=True)
    shutil.rmtree(path, ignore_errors=True)


def test_the_tutorial_runs_as_it_is_written(folder: Path) -> None:
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAAS_")} | {
        "HOME": str(folder),
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        # The one thing that differs from the page: port 8000 may be in use here.
        "MAAS_SERVER__PORT": str(port),
    }
    if shutil.which("curl") is None:
        pytest.skip("the tutorial calls curl, which is not on this machine")
    bash = Session(["bash", "-c", BASH], folder, environment)
    python = Session([sys.executable, "-c", PYTHON], folder, environment)
    try:
        for block in blocks_of(DOCS / "tutorial" / "from-data-to-a-service.md"):
            text = block.text.replace(":8000", f":{port}")
            if block.language == "bash":
                code, printed, errors = bash.run(text.encode() + b"\0")
            else:
                assert block.language == "python", block
                code, printed, errors = python.run(json.dumps(text).encode() + b"\n")
            where = f"line {block.line}:\n{block.text}printed:\n{printed}{errors}"
            assert code == 0, where
            if block.printed is not None:
                assert matches(printed.replace(f":{port}", ":8000"), block.printed), where
    finally:
        bash.close()
        python.close()
    assert "<html" in (folder / "report.html").read_text(encoding="utf-8")


def test_expected_output_is_really_compared() -> None:
    assert matches("a 1 b\nmore\n", "a … b\n")
    assert not matches("a 1 c\n", "a … b\n")
    assert not matches("", "a\n")
    assert not matches("(a\n", "a\n")


LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)|`((?:examples|docs|src|tests)/[\w./-]+)`")


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda p: p.stem)
def test_files_that_a_page_names_exist(page: Path) -> None:
    for link, path in LINK.findall(page.read_text(encoding="utf-8")):
        target = page.parent / link if link else DOCS.parent / path
        assert target.exists(), f"{page.name} names {link or path}"
