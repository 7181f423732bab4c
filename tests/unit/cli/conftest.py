"""Runs command lines against a scripted server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from maas.cli.main import run
from tests.support.fakes.scripted_server import FakeServer


class CommandResult(NamedTuple):
    code: int
    out: str
    err: str


Maas = Callable[..., CommandResult]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAAS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def maas(
    home: Path,
    fake: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Maas:
    """Runs a command line against the scripted server."""
    monkeypatch.setenv("MAAS_BASE_URL", fake.url)
    monkeypatch.setenv("MAAS_API_KEY", "maas_k_secret")

    def call(*words: str) -> CommandResult:
        code = run(words)
        output = capsys.readouterr()
        return CommandResult(code, output.out, output.err)

    return call
