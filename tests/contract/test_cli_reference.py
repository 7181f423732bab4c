"""Commands, their modules and their reference agree."""

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
    "engine_measurement",
    "errors",
    "completion",
    "inputs",
    "output",
    "outputs",
    "state",
    "profiles",
    "registration",
    "server_home",
    "job_progress",
}


def test_the_reference_is_up_to_date() -> None:
    script = runpy.run_path(str(ROOT / "docs/reference/make_cli.py"))
    assert script["PAGE"].read_text(encoding="utf-8") == script["page"](), (
        "run: python docs/reference/make_cli.py"
    )


def test_every_command_has_a_file_and_every_file_a_command() -> None:
    files = {path.stem for path in (ROOT / "src/maas/cli").rglob("*.py")}
    assert files - NOT_COMMANDS == set(COMMANDS)
