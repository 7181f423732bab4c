"""`maas chat`: piped, and in a terminal where Ctrl-C stops the answer and not the program."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers.maas import Stack, running, wait_until
from tests.support.servers.text import WRITER, deploy_writer

FRANCE = "What is the capital of France? Answer with one word."


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home: Path = tmp_path_factory.mktemp("h")
    with running(home) as stack:
        deploy_writer(stack)
        yield stack


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "maas.cli.main", "chat", *arguments]


def prompt_tokens(stack: Stack, *arguments: str) -> int:
    """Those of one chat, as the ledger has them."""

    def counted() -> int:
        return sum(u["prompt_tokens"] for u in stack.client().usage(deployment=WRITER))

    time.sleep(1.5)  # until what came before is in the ledger
    before = counted()
    assert chat(stack, *arguments).returncode == 0
    return int(wait_until(lambda: counted() - before))


def environment(stack: Stack) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MAAS_")}
    return kept | {"MAAS_BASE_URL": stack.url, "MAAS_API_KEY": stack.token, "TERM": "dumb"}


def chat(stack: Stack, *arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), input=said, capture_output=True, text=True, timeout=60,
        env=environment(stack),
    )  # fmt: skip


def test_a_pipe_and_a_message_are_answered(served: Stack) -> None:
    short = ("--temperature", "0", "--max-tokens", "8")
    piped = chat(served, WRITER, *short, said=f"{FRANCE}\n")
    assert (piped.returncode, piped.stderr) == (0, "")
    assert "Paris" in piped.stdout
    assert chat(served, WRITER, FRANCE, *short).stdout == piped.stdout
    plain = prompt_tokens(served, WRITER, FRANCE, *short)
    # What a small model makes of it is its own; that it was told is in the count.
    assert prompt_tokens(served, WRITER, FRANCE, *short, "--system", "Be brief.") != plain


def test_failures_have_their_exit_codes(served: Stack) -> None:
    missing = chat(served, "nobody", "Hi")
    assert (missing.returncode, missing.stdout) == (3, "")
    assert "nobody" in missing.stderr
    assert chat(served, WRITER).returncode == 2
    wrong = chat(served, WRITER, "Hi", "--temperature", "9")
    assert (wrong.returncode, "temperature" in wrong.stderr) == (2, True)


class Terminal:
    def __init__(self, stack: Stack, *arguments: str) -> None:
        pid, self.fd = pty.fork()
        if pid == 0:
            os.execve(sys.executable, command(*arguments), environment(stack))
        self.pid = pid
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def read_until(self, wanted: str, seconds: float = 30.0) -> str:
        """What was shown since the last call, up to `wanted`."""
        ends = time.monotonic() + seconds
        while wanted not in self.seen:
            left = ends - time.monotonic()
            assert left > 0, f"no {wanted!r} in {self.seen!r}"
            if select.select([self.fd], [], [], left)[0]:
                self.seen += os.read(self.fd, 65536).decode(errors="replace")
        shown, _, self.seen = self.seen.partition(wanted)
        return shown

    def exit_code(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_conversation_in_a_terminal(served: Stack) -> None:
    terminal = Terminal(served, WRITER, "--temperature", "0", "--max-tokens", "200")
    terminal.read_until("> ")
    terminal.type(f"{FRANCE}\n")
    assert "Paris" in terminal.read_until("\n> ")
    terminal.type("Write a long story about the sea.\n")
    terminal.read_until("story about the sea.\r\n")
    terminal.read_until(" ")  # the answer has begun
    terminal.type("\x03")
    terminal.read_until("(stopped)")
    terminal.read_until("> ")
    terminal.type("\x03")
    terminal.read_until("> ")
    terminal.type("/clear\n")
    terminal.read_until("> ")
    terminal.type(f"{FRANCE}\n")
    assert "Paris" in terminal.read_until("\n> ")
    terminal.type("\x04")
    assert terminal.exit_code() == 0
