"""The documents as programs: the blocks of a page, and a reader who runs them in order.

Shell blocks (`sh`, `bash`) of a page run in one bash with `set -e`, Python blocks in one
interpreter that is started in that shell, so that it has what the shell exported. A `text` or
`json` block right after one of them is what it prints. Comments right before a block, which
readers do not see, say what else to do with it:

    <!-- not run: REASON -->
    <!-- run if: TOOL -->                    only where the program is installed
    <!-- file: NAME -->                      written to the working directory, or to `~/…`
    <!-- file: NAME = PATH -->               the same; a test compares it with PATH of the checkout

A comment on a line of its own, `<!-- after: PAGE -->`, gives a page the home and the server that
PAGE leaves. Every other page starts from an empty home. `<!-- with: postgresql, s3 -->` starts a
real database and a real bucket for a page and puts their addresses and credentials in the place of
the page's. `python -m tests.support.documents` counts the blocks of each page.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.support.python_session import matches as value_matches
from tests.support.servers.backends import postgres, s3
from tests.support.servers.maas import free_port

CHECKOUT = Path(__file__).resolve().parents[2]
BLOCK_SECONDS = 400.0
SHELLS = ("sh", "bash")
OUTPUTS = ("text", "json")
ELSEWHERE = (
    "docs/reference/cli.md",  # generated, compared by tests/contract/test_cli_reference.py
    "docs/reference/configuration.md",  # generated, compared by tests/contract/test_docs.py
    "docs/howto/add-a-runtime.md",  # run by tests/acceptance/documents/test_add_a_runtime.py
)
"""Pages that another test holds to what they print."""

_FENCE = re.compile(r"^```([\w+-]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (not run|run if|file): ([^<>]*?) -->\s*$")
_AFTER = re.compile(r"^<!-- after: (\S+) -->$", re.MULTILINE)
_WITH_BACKENDS = "<!-- with: postgresql, s3 -->\n"
# Runs each block that it reads and writes a NUL, the exit code and a NUL after it.
_BASH = 'set -e; while IFS= read -r -d "" b; do eval "$b" </dev/null; printf "\\0%d\\0" $?; done'


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int
    use: str
    """`run`, `file`, `output`, `not run`, or empty if the page does not say."""
    detail: str = ""
    """The reason, the file, or the program that must be installed."""
    output: Block | None = None


def pages() -> list[str]:
    """Paths of the pages whose blocks are run, relative to the checkout."""
    files = [CHECKOUT / "README.md", CHECKOUT / "SECURITY.md", CHECKOUT / "examples" / "README.md"]
    for folder in ("tutorial", "howto", "reference"):
        files += sorted((CHECKOUT / "docs" / folder).glob("*.md"))
    paths = [str(page.relative_to(CHECKOUT)) for page in files]
    return [path for path in paths if path not in ELSEWHERE]


def page_text(page: str) -> str:
    return (CHECKOUT / page).read_text(encoding="utf-8")


def page_before(page: str) -> str:
    """The page whose home and server this one needs; empty if none."""
    after = _AFTER.search(page_text(page))
    return after[1] if after else ""


def blocks_of(text: str) -> list[Block]:
    fences = list(_FENCE.finditer(text))
    if len(re.findall(r"^\s*```", text, re.MULTILINE)) != 2 * len(fences):
        raise ValueError("a block is not closed, or is indented")
    blocks: list[Block] = []
    end = 0
    for fence in fences:
        between, line = text[end : fence.start()], text.count("\n", 0, fence.start()) + 1
        end = fence.end()
        mark = _MARK.search(between)
        block = Block(fence[1], fence[2], line, *_use(fence[1], mark))
        previous = blocks[-1] if blocks else None
        if not mark and previous and _is_output(block, previous, between):
            blocks[-1] = Block(**vars(previous) | {"output": block})
            block = Block(block.language, block.text, line, "output")
        blocks.append(block)
    return blocks


def _use(language: str, mark: re.Match[str] | None) -> tuple[str, str]:
    if mark:
        return ("run" if mark[1] == "run if" else mark[1]), mark[2]
    return ("run" if language in (*SHELLS, "python") else ""), ""


def _is_output(block: Block, previous: Block, between: str) -> bool:
    return block.language in OUTPUTS and previous.use == "run" and not between.strip()


def lines_match(printed: str, expected: str) -> bool:
    """Whether the lines of `expected` are the first of `printed`, each with `…` for anything."""
    lines, patterns = printed.splitlines(), expected.splitlines()
    return len(lines) >= len(patterns) and all(
        value_matches(line.rstrip(), pattern)
        for pattern, line in zip(patterns, lines, strict=False)
    )


def prints(printed: str, expected: Block) -> bool:
    if expected.language == "json":
        return bool(json.loads(printed) == json.loads(expected.text))
    return lines_match(printed, expected.text)


class Session:
    """A shell or an interpreter that runs one block after another."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self._errors = (folder / f".{Path(command[0]).name}.err").open("w+")
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )

    def run(self, sent: bytes) -> tuple[int, str, str]:
        """(exit code, stdout, stderr); a block that takes too long is killed and has code 1."""
        assert self._process.stdin is not None
        start = self._errors.seek(0, os.SEEK_END)
        watchdog = threading.Timer(BLOCK_SECONDS, os.killpg, (self._process.pid, signal.SIGKILL))
        watchdog.start()
        try:
            self._process.stdin.write(sent)
            self._process.stdin.flush()
            output, code = self._until_nul(), int(self._until_nul() or 1)
        finally:
            watchdog.cancel()
        self._errors.seek(start)
        return code, output, self._errors.read()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)
        self._errors.close()

    def _until_nul(self) -> str:
        assert self._process.stdout is not None
        output = bytearray()
        while (byte := self._process.stdout.read(1)) not in (b"\0", b""):
            output += byte
        return output.decode()


@contextmanager
def backends() -> Iterator[dict[str, str]]:
    """What the addresses and credentials of a page stand for here: those of real servers."""
    with postgres() as database, s3() as bucket:
        yield {
            "postgresql://maas@db.example.org/maas": database.url(),
            "s3://models/openmaas": f"s3://{bucket.bucket}/openmaas",
            "https://s3.example.org": bucket.endpoint,
            "YOUR-ACCESS-KEY-ID": bucket.access_key_id,
            "YOUR-SECRET-ACCESS-KEY": bucket.secret_access_key,
        }


@dataclass
class Home:
    """A reader's home directory, with the server that a page starts in it."""

    path: Path
    environment: dict[str, str]
    replacements: dict[str, str]
    """Text of a page and what stands in its place here: the port, and servers of the page."""

    @classmethod
    def create(cls, replacements: Mapping[str, str]) -> Home:
        # Short, because the path of a unix socket has at most 107 bytes.
        path, port = Path(tempfile.mkdtemp(prefix="doc")), free_port()
        programs = path / "bin"
        programs.mkdir()
        for name, arguments in (("maas", "-m maas.cli.main "), ("python", "")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n')
            program.chmod(0o755)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MAAS_")} | {
            "HOME": str(path),
            "PATH": f"{programs}:{os.environ['PATH']}",
            # Port 8000 may be in use here.
            "MAAS_SERVER__PORT": str(port),
        }
        return cls(path, environment, {":8000": f":{port}", **replacements})

    def here(self, text: str) -> str:
        """`text` of a page as it is run here."""
        for shown, actual in self.replacements.items():
            text = text.replace(shown, actual)
        return text

    def on_page(self, text: str) -> str:
        """`text` that was printed here as the page shows it."""
        for shown, actual in self.replacements.items():
            text = text.replace(actual, shown)
        return text

    def remove(self) -> None:
        """Stops the server; kills, by id, what is left of this home."""
        down = [str(self.path / "bin" / "maas"), "down"]
        subprocess.run(down, env=self.environment, capture_output=True, cwd=self.path)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(f"{self.path}/" in part for part in process.cmdline()):
                    process.kill()
        shutil.rmtree(self.path, ignore_errors=True)


class PageRun:
    """One page in a home, with a working directory and sessions of its own."""

    def __init__(self, page: str, home: Home) -> None:
        self.page = page
        self.folder = home.path / "work" / page.removesuffix(".md").replace("/", "-")
        self._home = home
        self._python: Session | None = None
        self.folder.mkdir(parents=True)
        # Pages are read in a checkout.
        shutil.copytree(CHECKOUT / "examples", self.folder / "examples")
        self._bash = Session(["bash", "-c", _BASH], self.folder, home.environment)

    def run(self) -> None:
        """Raises AssertionError for a block that fails or prints something else."""
        try:
            for block in blocks_of(page_text(self.page)):
                if block.use == "file":
                    self._write(block)
                elif block.use == "run":
                    self._check(block)
        finally:
            self._bash.close()
            if self._python:
                self._python.close()

    def _write(self, block: Block) -> None:
        name = block.detail.partition(" = ")[0]
        in_home = name.startswith("~/")
        file = self._home.path / name[2:] if in_home else self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self._home.here(block.text), encoding="utf-8")

    def _check(self, block: Block) -> None:
        if block.detail and shutil.which(block.detail) is None:
            return
        run = self._run_shell if block.language in SHELLS else self._run_python
        code, printed, errors = run(self._home.here(block.text))
        printed = self._home.on_page(printed)
        report = f"{self.page}, line {block.line}:\n{block.text}printed:\n{printed}{errors}"
        assert code == 0, report
        if block.output:
            assert prints(printed, block.output), report

    def _run_shell(self, text: str) -> tuple[int, str, str]:
        return self._bash.run(text.encode() + b"\0")

    def _run_python(self, text: str) -> tuple[int, str, str]:
        if self._python is None:
            exported = self._bash.run(b"env --null | tr '\\0\\n' '\\n '\0")[1].splitlines()
            environment = dict(line.split("=", 1) for line in exported if "=" in line)
            command = [sys.executable, str(Path(__file__).with_name("python_session.py"))]
            self._python = Session(command, self.folder, environment)
        return self._python.run(json.dumps(text).encode() + b"\n")


@dataclass
class Reader:
    """Runs pages, each once and after the page that it needs."""

    runs: dict[str, PageRun] = field(default_factory=dict)
    _homes: dict[str, Home] = field(default_factory=dict)
    _failures: dict[str, AssertionError] = field(default_factory=dict)
    _servers: ExitStack = field(default_factory=ExitStack)

    def read(self, page: str) -> PageRun:
        """Raises AssertionError if the page, or one before it, does not run as written."""
        if page in self._failures:
            raise self._failures[page]
        if page not in self.runs:
            before = page_before(page)
            if before:
                self.read(before)
            home = self._homes[before] if before else self._new_home(page)
            self._homes[page] = home
            self.runs[page] = PageRun(page, home)
            try:
                self.runs[page].run()
            except AssertionError as failure:
                self._failures[page] = failure
                raise
        return self.runs[page]

    def close(self) -> None:
        for home in {home.path: home for home in self._homes.values()}.values():
            home.remove()
        self._servers.close()

    def _new_home(self, page: str) -> Home:
        needs_backends = _WITH_BACKENDS in page_text(page)
        return Home.create(self._servers.enter_context(backends()) if needs_backends else {})


def counts(page: str) -> tuple[int, int]:
    """(blocks that are run, written or compared; blocks that are marked as not run)."""
    uses = [block.use for block in blocks_of(page_text(page))]
    return sum(use in ("run", "file", "output") for use in uses), uses.count("not run")


def main() -> None:
    total = [0, 0]
    for page in pages():
        run, not_run = counts(page)
        total = [total[0] + run, total[1] + not_run]
        print(f"{page:45} {run:3} run {not_run:3} not run")
    print(f"{'total':45} {total[0]:3} run {total[1]:3} not run")


if __name__ == "__main__":
    main()
