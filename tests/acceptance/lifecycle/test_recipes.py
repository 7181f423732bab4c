"""Both example recipes through the command line, from data to deployment and usage."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import maas
from tests.support.servers.maas import Stack, running

ROOT = Path(__file__).resolve().parents[3]
ROW = list(range(1, 11))


class Said(NamedTuple):
    code: int
    out: str
    err: str


class Shell:
    """`maas` commands in a separate directory, for a running server."""

    def __init__(self, stack: Stack, directory: Path) -> None:
        self.stack, self.directory = stack, directory

    def maas(self, *words: str, token: str = "") -> Said:
        env = {k: v for k, v in os.environ.items() if not k.startswith("MAAS_")}
        env |= {"MAAS_HOME": str(self.stack.home), "MAAS_SERVER__PORT": str(self.stack.port)}
        env |= {"MAAS_API_KEY": token} if token else {}
        done = subprocess.run(
            [sys.executable, "-m", "maas.cli.main", *words],
            cwd=self.directory,
            env=env,
            capture_output=True,
            text=True,
            timeout=240,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def json(self, *words: str, token: str = "") -> Any:
        output = self.maas(*words, "-o", "json", token=token)
        assert output.code == 0, output.err
        return json.loads(output.out)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with running(tmp_path_factory.mktemp("h")) as stack:
        yield Shell(stack, tmp_path_factory.mktemp("w"))


@pytest.fixture(scope="module")
def article(shell: Shell) -> Any:
    """The JSON output of `maas run` for the article recipe."""
    return shell.json("run", str(ROOT / "examples/article/recipe.toml"))


@pytest.fixture(scope="module")
def digits(shell: Shell) -> Any:
    return shell.json("run", str(ROOT / "examples/digits/recipe.toml"))


def test_the_article_runs_from_rows_to_an_explained_answer(shell: Shell, article: Any) -> None:
    assert article["published"]["created"]
    assert article["deployment"]["state"] == "ready"
    answer = article["call"]["outputs"]["y_pred"]
    assert shell.stack.client().predict("article", x=ROW) == {"y_pred": answer}
    explained = article["explanation"]
    total = sum(a["shapley"] for a in explained["attributions"])
    assert explained["prediction"] == pytest.approx(answer, abs=1e-5)
    assert explained["baseline"] + total == pytest.approx(answer, abs=1e-4)
    # Compared with training rows, whose mean answer is far from that for a row of zeros.
    zeros = shell.stack.client().predict("article", x=[0] * 10)["y_pred"]
    assert abs(explained["baseline"] - zeros) > 1
    assert explained["background_rows"] > 10


def test_the_job_is_known_to_the_server_and_has_ended(shell: Shell, article: Any) -> None:
    job = shell.stack.client().jobs.get(article["job"]["id"])
    assert job.state == "succeeded"
    assert job.result["metrics"]["r2"] > 0.95


def test_running_it_again_publishes_the_same_version(shell: Shell, article: Any) -> None:
    again = shell.json("publish", "--job", article["job"]["id"])
    assert again == article["published"] | {"created": False}
    ref = f"article:{again['number']}"
    kinds = [e.kind for e in shell.stack.client().evidence(ref)]
    assert sorted(kinds) == sorted(set(kinds)), "evidence was added twice"


def test_digits_pass_their_gate_and_leave_a_report_and_a_picture(shell: Shell, digits: Any) -> None:
    assert digits["job"]["result"]["metrics"]["accuracy"] >= 0.97
    folder = Path(digits["job"]["result"]["publication"]).parent
    assert (folder / "explanation.png").read_bytes().startswith(b"\x89PNG")
    report = shell.directory / "digits.html"
    assert shell.maas("models", "show", "digits", "--report", str(report)).code == 0
    page = report.read_text()
    assert "<svg" in page
    assert not re.search(r"""(?:src|href)=["']?https?:""", page)


def test_the_published_model_reads_digits(shell: Shell, digits: Any) -> None:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    rows = images.reshape(-1, 1, 8, 8)
    answers = shell.stack.client().predict("digits", x=rows.astype(np.float32))
    assert np.mean(np.array(answers["label"]) == labels) >= 0.97


def test_keys_usage_and_scopes(shell: Shell, article: Any) -> None:
    created = shell.json("keys", "create", "ada", "--scope", "call")
    token = created["token"]
    for _ in range(3):
        output = shell.maas("predict", "article", f"x={json.dumps(ROW)}", token=token)
        assert output.code == 0, output.err
    assert shell.maas("predict", "article", "x=[1,2]", token=token).code == 2
    assert shell.maas("models", token=token).code == 4
    assert shell.maas("explain", "article", f"x={json.dumps(ROW)}", token=token).code == 0
    assert shell.maas("keys", "revoke", created["id"]).code == 0
    with pytest.raises(maas.Unauthenticated):
        ends = time.monotonic() + 2
        while time.monotonic() < ends:
            shell.stack.client(token).predict("article", x=ROW)
    used = [u for u in shell.json("usage", "--key", created["id"]) if u["operation"] == "predict"]
    assert sum(u["errors"] for u in used) == 1
    assert sum(u["requests"] for u in used) >= 3


def test_shares_and_rollback(shell: Shell, article: Any) -> None:
    recipe = shell.directory / "article"
    shutil.copytree(ROOT / "examples/article", recipe, dirs_exist_ok=True)
    text = (recipe / "recipe.toml").read_text().replace("epochs = 20", "epochs = 2")
    (recipe / "recipe.toml").write_text(text.replace("[deploy]\ndefault = true", ""))
    second = shell.json("run", str(recipe / "recipe.toml"))["published"]["number"]
    assert second != article["published"]["number"]
    shared = shell.json("deploy", "article", "--version", str(second), "--weight", "25")
    weights = {t["version"]: t["weight"] for t in shared["targets"]}
    assert weights == {article["published"]["number"]: 750, second: 250}
    answers = {shell.stack.client().predict("article", x=ROW)["y_pred"] for _ in range(64)}
    assert len(answers) == 2
    back = shell.json("rollback", "article")
    assert [t["version"] for t in back["targets"]] == [article["published"]["number"]]


def test_status_logs_and_doctor(shell: Shell, article: Any) -> None:
    status = shell.maas("status")
    assert "article (default)" in status.out
    assert "maas.control" in shell.maas("logs", "control").out
    doctor = {c["what"]: c["outcome"] for c in shell.json("doctor")}
    assert doctor["server"] == doctor["key"] == doctor["port"] == "ok"


def test_both_clients_agree(shell: Shell, article: Any) -> None:
    async def ask() -> Any:
        async with maas.AsyncClient(shell.stack.url, shell.stack.token) as client:
            return await asyncio.gather(
                *(client.predict("article", x=np.array(ROW) + i) for i in range(20))
            )

    client = shell.stack.client()
    expected = [client.predict("article", x=np.array(ROW) + i) for i in range(20)]
    assert asyncio.run(ask()) == expected
