"""OpenAI's package for JavaScript as a client. `make setup` installs it if npm is available."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers.maas import Stack

MODULES = Path(sys.prefix) / "npm" / "node_modules"
SCRIPT = Path(__file__).parents[2] / "npm" / "openai_client.cjs"


def run_npm_client(stack: Stack, operation: str, *arguments: str) -> dict[str, Any]:
    """The output of tests/npm/openai_client.cjs. Skips the test if Node is not installed."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    if not (MODULES / "openai").is_dir():
        if shutil.which("npm") is None:
            pytest.skip("npm is not installed")
        pytest.fail("the openai npm package is not installed: make setup")
    ran = subprocess.run(
        [node, str(SCRIPT), operation, f"{stack.url}/v1", stack.token, *arguments],
        env={**os.environ, "NODE_PATH": str(MODULES)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    output: dict[str, Any] = json.loads(ran.stdout)
    return output
