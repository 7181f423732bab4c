"""The clients of examples/article, in every language, and the usage lines of scripts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from maas.lifecycle.data.entrypoints import load_entry
from tests.support.servers.maas import Stack, free_port

CHECKOUT = Path(__file__).resolve().parents[3]
ARTICLE = CHECKOUT / "examples" / "article"
X = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]
RECIPE_SECONDS = 400.0
CALL_SECONDS = 60.0


@dataclass(frozen=True)
class Article:
    """A running deployment and the predictions expected of it."""

    url: str
    key: str
    by_onnx: float
    by_torch: float


@pytest.fixture(scope="module")
def article(stack: Stack) -> Iterator[Article]:
    ran = subprocess.run(
        [sys.executable, "-m", "maas.cli.main", "run", str(ARTICLE / "recipe.toml"), "-o", "json"],
        env=_environment(MAAS_HOME=str(stack.home), MAAS_SERVER__PORT=str(stack.port)),
        capture_output=True,
        text=True,
        timeout=RECIPE_SECONDS,
    )
    assert ran.returncode == 0, ran.stderr
    done = json.loads(ran.stdout)
    with stack.client() as client:
        version = client.models.version("article").version
        model = client.files.download(version.manifest.variants[0].files[0].sha256)
        key = client.keys.create("examples", ["call"]).token
    job = stack.home / "jobs" / done["job"]["id"]
    yield Article(stack.url, key, _by_onnx(model), _by_torch(job / "work" / "checkpoint.pt"))


def _by_onnx(model: bytes) -> float:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (answer,) = session.run(["y_pred"], {"x": np.array(X, np.float32)})
    return float(answer[0, 0])


def _by_torch(checkpoint: Path) -> float:
    """The prediction of the example's own module with the weights of the last checkpoint."""
    torch = pytest.importorskip("torch")
    state = torch.load(checkpoint, weights_only=True)
    weights = state["best"] or state["model"]
    net = load_entry("model.py:Net", str(ARTICLE), "model")()
    own = {k.removeprefix("network."): v for k, v in weights.items() if k.startswith("network.")}
    net.load_state_dict(own)
    with torch.no_grad():
        x = (torch.tensor(X, dtype=torch.float32) - weights["inputs.mean"]) / weights[
            "inputs.scale"
        ]
        y = net(x) * weights["target.scale"] + weights["target.mean"]
    return float(y[0, 0])


def _command(program: str, folder: Path) -> list[str]:
    """The command that runs a client; skips the test if its tool is missing."""
    path = str(ARTICLE / program)
    if program.endswith(".py"):
        return [sys.executable, path]
    tool = {".sh": "curl", ".java": "java", ".cpp": "g++", ".mjs": "node"}[Path(program).suffix]
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not on this machine")
    if program.endswith(".cpp"):
        return [str(_compiled(path, folder))]
    return [{"curl": "sh"}.get(tool, tool), path]


def _compiled(source: str, folder: Path) -> Path:
    probe = subprocess.run(
        ["g++", "-E", "-x", "c++", "-"], input=b"#include <curl/curl.h>\n", capture_output=True
    )
    if probe.returncode:
        pytest.skip("the headers of libcurl are missing (Debian: libcurl4-openssl-dev)")
    binary = folder / "call"
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", source, "-lcurl", "-o"]
    built = subprocess.run([*command, str(binary)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return binary


@pytest.fixture(scope="module", params=sorted(p.name for p in ARTICLE.glob("[cC]all*.*")))
def command(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return _command(request.param, tmp_path_factory.mktemp("call"))


def _call(command: list[str], url: str, key: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=_environment(MAAS_BASE_URL=url, MAAS_API_KEY=key),
        capture_output=True,
        text=True,
        timeout=CALL_SECONDS,
    )


def _environment(**more: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("MAAS_")} | more


def test_the_onnx_file_predicts_like_the_module(article: Article) -> None:
    assert article.by_onnx == pytest.approx(article.by_torch, abs=1e-5)


def test_there_is_a_client_in_every_language() -> None:
    assert {p.name for p in ARTICLE.glob("[cC]all*.*")} == {
        "Call.java",
        "call.cpp",
        "call.mjs",
        "call.py",
        "call.sh",
        "call_plain.py",
    }


def test_a_client_prints_the_prediction_of_the_network(
    article: Article, command: list[str]
) -> None:
    ran = _call(command, article.url, article.key)
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    assert answer == {"y_pred": pytest.approx(article.by_torch, abs=1e-5)}


def test_a_client_prints_that_its_key_is_refused(article: Article, command: list[str]) -> None:
    ran = _call(command, article.url, "maas_wrong_key")
    assert ran.returncode != 0
    assert ran.stdout == ""
    assert "this key is unknown or revoked" in ran.stderr


def test_a_client_prints_that_the_server_is_unavailable(command: list[str]) -> None:
    ran = _call(command, f"http://127.0.0.1:{free_port()}", "maas_any_key")
    assert ran.returncode != 0
    assert ran.stdout == ""
    assert ran.stderr.strip()


@pytest.mark.parametrize("script", ["speech/transcribe.py", "images/recognize.py"])
def test_a_script_without_its_file_prints_how_to_use_it(script: str) -> None:
    ran = _call(
        [sys.executable, str(ARTICLE.parent / script)], "http://127.0.0.1:1", "maas_any_key"
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(f"usage: python {Path(script).name} ")
