"""The commands, their files and their reference are one list."""

from __future__ import annotations

import runpy
from pathlib import Path

from maas.cli.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
NOT_COMMANDS = {
    "commands",
    "__init__",
    "app",
    "background",
    "common",
    "main",
    "objective",
    "profiles",
    "registration",
    "server_home",
    "watching",
}


def test_the_reference_is_what_the_commands_say() -> None:
    made = runpy.run_path(str(ROOT / "docs/reference/make_cli.py"))
    assert made["PAGE"].read_text(encoding="utf-8") == made["page"](), (
        "run: python docs/reference/make_cli.py"
    )


def test_every_command_has_a_file_and_every_file_a_command() -> None:
    files = {path.stem for path in (ROOT / "src/maas/cli").rglob("*.py")}
    assert files - NOT_COMMANDS == set(COMMANDS)
