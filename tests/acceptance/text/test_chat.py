"""`maas chat`: piped, and in a terminal where Ctrl-C stops the answer and not the program."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time

from tests.support.servers.maas import Stack, wait_until
from tests.support.servers.text import QUESTION, TEXT_MODEL


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "maas.cli.main", "chat", *arguments]


def prompt_tokens(stack: Stack, *arguments: str) -> int:
    """Prompt tokens of one chat in the ledger."""

    def recorded() -> int:
        return sum(u["prompt_tokens"] for u in stack.client().usage(deployment=TEXT_MODEL))

    time.sleep(1.5)  # until earlier requests are in the ledger
    before = recorded()
    assert chat(stack, *arguments).returncode == 0
    return int(wait_until(lambda: recorded() - before))


def environment(stack: Stack) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MAAS_")}
    return inherited | {"MAAS_BASE_URL": stack.url, "MAAS_API_KEY": stack.token, "TERM": "dumb"}


def chat(stack: Stack, *arguments: str, piped: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), input=piped, capture_output=True, text=True, timeout=60,
        env=environment(stack),
    )  # fmt: skip


def test_a_pipe_and_a_message_are_answered(served: Stack) -> None:
    short = ("--temperature", "0", "--max-tokens", "8")
    answer = chat(served, TEXT_MODEL, *short, piped=f"{QUESTION}\n")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "Paris" in answer.stdout
    assert chat(served, TEXT_MODEL, QUESTION, *short).stdout == answer.stdout
    plain = prompt_tokens(served, TEXT_MODEL, QUESTION, *short)
    # A small model may ignore the instruction; the number of tokens shows that it was sent.
    assert prompt_tokens(served, TEXT_MODEL, QUESTION, *short, "--system", "Be brief.") != plain


def test_failures_have_their_exit_codes(served: Stack) -> None:
    missing = chat(served, "nobody", "Hi")
    assert (missing.returncode, missing.stdout) == (3, "")
    assert "nobody" in missing.stderr
    assert chat(served, TEXT_MODEL).returncode == 2
    invalid = chat(served, TEXT_MODEL, "Hi", "--temperature", "9")
    assert (invalid.returncode, "temperature" in invalid.stderr) == (2, True)


class Terminal:
    """`maas chat` in a pseudo-terminal."""

    def __init__(self, stack: Stack, *arguments: str) -> None:
        pid, self.fd = pty.fork()
        if pid == 0:
            os.execve(sys.executable, command(*arguments), environment(stack))
        self.pid = pid
        self.unread = ""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def read_until(self, text: str, seconds: float = 30.0) -> str:
        """The output since the last call, up to `text`."""
        ends = time.monotonic() + seconds
        while text not in self.unread:
            left = ends - time.monotonic()
            assert left > 0, f"no {text!r} in {self.unread!r}"
            if select.select([self.fd], [], [], left)[0]:
                self.unread += os.read(self.fd, 65536).decode(errors="replace")
        output, _, self.unread = self.unread.partition(text)
        return output

    def exit_code(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_conversation_in_a_terminal(served: Stack) -> None:
    terminal = Terminal(served, TEXT_MODEL, "--temperature", "0", "--max-tokens", "200")
    terminal.read_until("> ")
    terminal.type(f"{QUESTION}\n")
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
    terminal.type(f"{QUESTION}\n")
    assert "Paris" in terminal.read_until("\n> ")
    terminal.type("\x04")
    assert terminal.exit_code() == 0
