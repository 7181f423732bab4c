"""Audio, images and deployments for the tests of media."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.servers.maas import Stack

EXAMPLES = Path(__file__).parents[2] / "examples"
BECKETT = "Ever tried. Ever failed. No matter. Try again. Fail again. Fail better."
"""The text that is spoken in `clip`."""


def require_packages(*names: str) -> None:
    """Skip the module unless all of these packages are installed."""
    for name in names:
        if find_spec(name) is None:
            pytest.skip(f"needs the package {name}: make setup", allow_module_level=True)


def asset(package: str, *path: str) -> Path:
    """A file of an installed package."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent.joinpath(*path)


def flower() -> Path:
    """A photograph of a daisy."""
    return asset("sklearn", "datasets", "images", "flower.jpg")


def clip() -> Path:
    """Ten seconds of speech."""
    return asset("moonshine_voice", "assets", "beckett.wav")


def run_example(stack: Stack, script: str, *arguments: str) -> str:
    """The output of a script in examples/, which publishes, deploys and calls a model."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAAS_")}
    env |= {"MAAS_BASE_URL": stack.url, "MAAS_API_KEY": stack.token}
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        env=env, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout


def embed(client: Any, texts: Any, **fields: Any) -> np.ndarray[Any, Any]:
    """Vectors of `texts` by `minilm`, through OpenAI's SDK: a row per text."""
    embeddings = client.embeddings.create(model="minilm", input=texts, **fields)
    return np.array([item.embedding for item in embeddings.data])


def usage_of(stack: Stack, operation: str) -> dict[str, int]:
    """Totals in the ledger over all keys and deployments."""
    status, _, body = stack.request("GET", "/api/v1/usage")
    assert status == 200
    rows = [row for row in json.loads(body)["usage"] if row["operation"] == operation]
    names = ("requests", "rows", "prompt_tokens", "errors")
    return {name: sum(row[name] for row in rows) for name in names}
