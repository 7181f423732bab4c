"""Help texts are complete at any width."""

from __future__ import annotations

import re

import pytest

from maas.cli.commands import COMMANDS, SUBCOMMANDS, help_text
from tests.unit.cli.conftest import Maas

ALL = [
    (),
    *((name,) for name in COMMANDS),
    *((name, sub) for name, subs in SUBCOMMANDS.items() for sub in subs),
]


@pytest.mark.parametrize("columns", [80, 60])
@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_help_is_not_cut(
    maas: Maas, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    result = maas(*words, "--help")
    assert (result.code, result.err) == (0, "")
    # `[ARGS]...` in a usage line is the notation for several arguments.
    text = re.sub(r"[\]}]\.\.\.", "", result.out)
    assert "..." not in text and "…" not in text
    assert max(map(len, result.out.splitlines())) <= columns


@pytest.mark.parametrize("name", COMMANDS)
def test_a_summary_is_a_sentence_that_the_help_of_maas_shows_whole(name: str) -> None:
    summary = COMMANDS[name].summary
    assert summary[0].isupper() and summary.endswith(".")
    for width in (60, 80, 200):
        assert summary in " ".join(help_text(width).split())


@pytest.mark.parametrize("words", ALL[1:], ids=" ".join)
def test_option_help_is_a_phrase_of_its_own(maas: Maas, words: tuple[str, ...]) -> None:
    text = maas(*words, "--help").out
    for fragment in ("  Of ", "  So many", "  As many", "  Its ", "  What a "):
        assert fragment not in text


@pytest.mark.parametrize("words", [("deploy",), ("keys", "create")], ids=" ".join)
def test_help_before_a_command_is_the_help_of_the_command(
    maas: Maas, words: tuple[str, ...]
) -> None:
    assert maas("help", *words) == maas(*words, "--help")
