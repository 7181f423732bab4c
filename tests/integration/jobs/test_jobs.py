"""Jobs in their own processes, without a server: progress, gates, cancel, kill -9 and resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maas.domain.jobs import JobState
from maas.lifecycle.job_folder import JobFolder
from maas.lifecycle.prepared_publication import PreparedPublication

EPOCHS = 10_000
"""More epochs than a test waits for on any machine; every test stops the training early."""
STEPS = 400
"""Optimizer steps before a build is interrupted: more than happen between two polls."""
RECIPE = """
name = "line"
[data]
source = "rows.py:rows"
[model]
{model}
[evaluate]
gates = ["r2 >= {least}"]
explained_rows = 1
"""
ROWS = """
import time
import numpy as np

def rows():
    x = np.random.default_rng(0).normal(size=(600, 3)).astype(np.float32)
    return {"x": x, "y": x @ np.array([1.0, 2.0, 3.0]), "target_name": "y", "name": "line"}
"""


class Home:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.jobs = path / "home" / "jobs"
        (path / "rows.py").write_text(ROWS)

    def recipe(self, epochs: int = 0, least: float = -100.0) -> str:
        """Writes a recipe for a network with `epochs` epochs, or for an estimator if that is 0."""
        model = 'estimator = "sklearn.linear_model:Ridge"'
        if epochs:
            model = f'family = "mlp"\nhidden = [8]\n[training]\nepochs = {epochs}'
        file = self.path / "recipe.toml"
        file.write_text(RECIPE.format(model=model, least=least))
        return str(file)

    def start(self, *words: str) -> subprocess.Popen[str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith("MAAS_")}
        env |= {"MAAS_HOME": str(self.path / "home"), "MAAS_SERVER__PORT": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", "maas.cli.main", *words],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def maas(self, *words: str) -> tuple[int, str, str]:
        with self.start(*words) as process:
            out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def only_job(self) -> JobFolder:
        (folder,) = JobFolder.all(self.jobs)
        return folder


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def until(condition: Callable[[], Any], what: str, seconds: float = 90.0) -> Any:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


def trains(home: Home) -> int:
    """Process id of the only job, after it has trained for some epochs."""
    until(lambda: JobFolder.all(home.jobs), "a job")
    folder = home.only_job()
    until(lambda: folder.job().progress.done > STEPS, "training")
    until(lambda: (folder.work / "checkpoint.pt").exists(), "a checkpoint")
    finished = subprocess.run(
        ["pgrep", "-f", str(folder.path / "spec.json")], capture_output=True, text=True, check=True
    )
    return int(finished.stdout.split()[0])


def test_a_build_leaves_a_publication_with_its_evidence(home: Home) -> None:
    code, out, err = home.maas("build", home.recipe(3), "-o", "json")
    assert code == 0, err
    job = json.loads(out)
    assert job["state"] == "succeeded"
    assert job["result"]["training"]["epochs"] == 3
    prepared = PreparedPublication.load(home.only_job().publication)
    assert {e.kind for e in prepared.evidence} == {"parity", "training", "metrics", "report"}
    assert "input" not in prepared.manifest.metadata["background"]
    assert len(prepared.manifest.metadata["background"]["x"][0]) == 3
    assert prepared.manifest.metadata["recipe"]["name"] == "line"
    # Measured again, it is the same version with the same metrics.
    code, out, err = home.maas("evaluate", home.recipe(3), "-o", "json")
    assert code == 0, err
    again = json.loads(out)
    assert again["metrics"]["mae"] == pytest.approx(job["result"]["metrics"]["mae"], abs=1e-6)
    measured = PreparedPublication.load(Path(again["publication"]))
    assert measured.manifest.digest == prepared.manifest.digest


def test_a_gate_that_fails_publishes_nothing(home: Home) -> None:
    code, _, err = home.maas("build", home.recipe(least=2.0))
    assert code == 0, err
    code, out, err = home.maas("publish", "--job", home.only_job().path.name)
    assert (code, out) == (5, "")
    assert "r2 >= 2 fails: measured" in err
    code, _, err = home.maas("evaluate", home.recipe(least=2.0))
    assert code == 5, err


def test_a_killed_build_resumes(home: Home) -> None:
    command = home.start("build", home.recipe(EPOCHS))
    os.kill(trains(home), signal.SIGKILL)
    _, err = command.communicate(timeout=60)
    folder = home.only_job()
    assert command.returncode == 1
    assert f"maas build --resume {folder.path.name}" in err
    assert folder.job().state is JobState.LOST
    done_before = folder.job().progress.done
    stopped_at = folder.job().updated_at
    process = home.start("build", "--resume", folder.path.name)
    until(lambda: folder.job().updated_at > stopped_at and folder.job().progress.total, "training")
    assert folder.job().progress.done >= STEPS * 0.8
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert home.only_job().job().state is JobState.CANCELLED
    assert done_before >= STEPS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_the_job_and_keeps_its_checkpoint(
    home: Home, number: signal.Signals
) -> None:
    command = home.start("build", home.recipe(EPOCHS))
    trains(home)
    command.send_signal(number)
    _, err = command.communicate(timeout=60)
    folder = home.only_job()
    assert command.returncode == 130, err
    assert folder.job().state is JobState.CANCELLED
    assert (folder.work / "checkpoint.pt").exists()
    # It has ended, so going on is a new job; it takes the checkpoint along.
    code, _, err = home.maas("build", "--resume", folder.path.name, "--detach")
    assert code == 0, err
    fresh = next(f for f in JobFolder.all(home.jobs) if f.path != folder.path)
    assert (fresh.work / "checkpoint.pt").exists()
    until(lambda: fresh.job().state is JobState.RUNNING, "the new job runs")
    assert home.maas("build", "--resume", fresh.path.name)[0] == 5
    assert home.maas("jobs", "cancel", fresh.path.name)[0] == 0
    until(lambda: fresh.job().state is JobState.CANCELLED, "the new job is cancelled")


def test_a_build_that_cannot_start_has_an_error(home: Home) -> None:
    recipe = home.recipe()
    (home.path / "rows.py").write_text("def rows():\n    raise OSError('the disk is gone')\n")
    code, _, err = home.maas("build", recipe)
    assert code == 1
    assert "the disk is gone" in err
    assert home.only_job().job().state is JobState.FAILED
    code, _, err = home.maas("publish", "--job", home.only_job().path.name)
    assert code == 1
    assert "the disk is gone" in err
