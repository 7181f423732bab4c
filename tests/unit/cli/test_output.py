"""Colors of states in tables."""

from __future__ import annotations

import io
import sys

import pytest

from maas.cli.output import emit_table

ROWS = [("a", "ready"), ("b", "draining"), ("c", "failed"), ("d", "stopped")]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def table(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, **environment: str) -> list[str]:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", stream)
    emit_table(("name", "state"), ROWS)
    return stream.getvalue().splitlines()


def test_states_have_colors_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    _, ready, draining, failed, stopped = table(monkeypatch, Terminal(), TERM="xterm-256color")
    assert ready == "a     \x1b[32mready\x1b[0m"
    assert draining == "b     \x1b[33mdraining\x1b[0m"
    assert failed == "c     \x1b[31mfailed\x1b[0m"
    assert stopped == "d     stopped"


def test_there_are_no_colors_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in "".join(table(monkeypatch, io.StringIO(), TERM="xterm-256color"))


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_a_terminal_without_colors_is_respected(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    assert "\x1b" not in "".join(table(monkeypatch, Terminal(), **{"TERM": "xterm"} | environment))
