"""maas optimize by command line and HTTP: candidates, gate, variants, resumption, full disk."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.lifecycle.test_recipes import Shell
from tests.support.servers.maas import running, wait_until

RECIPE = """
name = "digits"
[data]
source = "sklearn:digits"
[model]
family = "cnn"
channels = [16, 32]
hidden = [64]
[training]
epochs = 4
learning_rate = 0.005
batch_size = 64
[evaluate]
explained_rows = 0
"""
QUICK = ("--seconds", "0.002", "--runs", "2", "--epochs", "2")
FEW = (
    "--candidate", "onnx-extended", "--candidate", "onnx-int8-static",
    "--candidate", "onnx-distilled", "--candidate", "onnx-pruned-20",
)  # fmt: skip
UNTRAINED = ("onnx-extended", "onnx-fp16", "onnx-int8-static")
CHEAP = tuple(word for name in UNTRAINED for word in ("--candidate", name))
"""Candidates made within a second, for tests that do not need good ones."""


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """Shell for a server with digits:1, which was built on this machine."""
    with running(tmp_path_factory.mktemp("h")) as stack:
        shell = Shell(stack, tmp_path_factory.mktemp("w"))
        (shell.directory / "recipe.toml").write_text(RECIPE)
        job = shell.json("build", "recipe.toml")["id"]
        shell.json("publish", "--job", job)
        yield shell


@pytest.fixture(scope="module")
def summary(shell: Shell) -> Any:
    gate = ("--gate", "accuracy>=-0.03", "--objective", "size")
    return shell.json("optimize", "digits", *gate, *QUICK, *FEW, "--report", "report.html")


def start(shell: Shell, *words: str, largest_file: int = 0) -> subprocess.Popen[str]:
    def limit() -> None:
        if largest_file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    env = {k: v for k, v in os.environ.items() if not k.startswith("MAAS_")}
    env |= {"MAAS_HOME": str(shell.stack.home), "MAAS_SERVER__PORT": str(shell.stack.port)}
    return subprocess.Popen(
        [sys.executable, "-m", "maas.cli.main", *words],
        cwd=shell.directory,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
    )


def jobs(shell: Shell) -> list[Path]:
    return sorted((shell.stack.home / "jobs").glob("optimize-*"), key=lambda p: p.stat().st_mtime)


def variants(shell: Shell) -> list[str]:
    status, _, body = shell.stack.request("GET", "/api/v1/models/digits/versions/1")
    assert status == 200
    return [v["name"] for v in json.loads(body)["variants"]]


def test_candidates_are_listed_with_figures_and_reasons(shell: Shell, summary: Any) -> None:
    names = [c["name"] for c in summary["candidates"]]
    assert names[0] == "onnx" and len(names) == 5
    assert summary["chosen"] in names
    for candidate in summary["candidates"]:
        assert {"name", "metrics", "passed", "reason"} <= candidate.keys()
        assert "accuracy" in candidate["metrics"] or not candidate["passed"]
    page = (shell.directory / "report.html").read_text()
    assert all(name in page for name in names)


def test_accepted_candidates_are_variants_and_the_manifest_is_unchanged(
    shell: Shell, summary: Any
) -> None:
    passed = [c["name"] for c in summary["candidates"] if c["passed"]]
    assert variants(shell) == passed
    assert "onnx-int8-static" in passed
    details = shell.stack.client().models.version("digits:1")
    assert [v.name for v in details.version.manifest.variants] == ["onnx"]
    assert details.digest == details.version.manifest.digest


def test_auto_serves_the_chosen_candidate(shell: Shell, summary: Any) -> None:
    assert summary["chosen"] == "onnx-int8-static" or "int8" in summary["chosen"]
    view = shell.json("deploy", "digits", "--variant", "auto")
    assert [t["variant"] for t in view["targets"]] == [summary["chosen"]]
    example = shell.stack.client().models.version("digits").version.manifest.signature.example
    answer = shell.stack.client().predict("digits", example)
    assert sum(answer["probabilities"]) == pytest.approx(1, abs=0.01)


def test_a_variant_without_evidence_for_the_gate_is_refused(shell: Shell, summary: Any) -> None:
    details = shell.stack.client().models.version("digits:1")
    file = details.version.manifest.variants[0].files[0].to_dict()
    body = {"name": "unknown", "runtime": "onnx", "files": [file]}
    path = "/api/v1/models/digits/versions/1/variants"
    assert shell.stack.request("POST", path, body)[0] == 201
    assert shell.stack.request("POST", path, body)[0] == 200
    gate = ("--gate", "accuracy>=-0.03", "--wait", "0")
    result = shell.maas("deploy", "gated", "--model", "digits", "--variant", "unknown", *gate)
    assert result.code == 5 and "never compared with the original" in result.err
    result = shell.maas("deploy", "gated", "--model", "digits", "--variant", "auto", *gate)
    assert result.code == 0, result.err
    # The gate also applies to later changes of the deployment.
    result = shell.maas("deploy", "gated", "--model", "digits", "--variant", "unknown")
    assert result.code == 5
    strict = ("--gate", "accuracy>=+0.2")
    result = shell.maas("deploy", "other", "--model", "digits", "--variant", "auto", *strict)
    assert result.code == 5 and "does not pass the gate" in result.err
    result = shell.maas("deploy", "gated", "--model", "digits", "--gate", "", "--wait", "0")
    assert result.code == 0, result.err


def test_a_different_variant_with_the_same_name_is_refused(shell: Shell, summary: Any) -> None:
    details = shell.stack.client().models.version("digits:1")
    file = details.version.manifest.variants[0].files[0].to_dict()
    path = "/api/v1/models/digits/versions/1/variants"
    for name, code in (("onnx", 409), ("auto", 422)):
        body = {"name": name, "runtime": "onnx", "files": [file], "options": {"arena": False}}
        assert shell.stack.request("POST", path, body)[0] == code
    missing = {"name": "m", "runtime": "onnx", "files": [file | {"sha256": "0" * 64}]}
    assert shell.stack.request("POST", path, missing)[0] == 422


def test_a_version_without_a_build_needs_rows_and_has_no_best_variant(shell: Shell) -> None:
    (file,) = (shell.stack.home / "jobs").glob("build-*/publication/model.onnx")
    shell.json("publish", str(file), "--name", "other")
    result = shell.maas("deploy", "other", "--variant", "auto")
    assert result.code == 5 and "`maas optimize other:1`" in result.err
    result = shell.maas("optimize", "other", *QUICK)
    assert result.code == 1 and "--data rows.npz" in result.err


def test_a_killed_optimization_can_be_resumed(shell: Shell) -> None:
    before = set(jobs(shell))
    words = ("optimize", "digits", "--gate", "accuracy>=-0.5", *QUICK, *CHEAP)
    with start(shell, *words) as process:

        def candidates() -> list[Path]:
            files: list[Path] = []
            for job in set(jobs(shell)) - before:
                files += job.glob("work/candidates/*/candidate.json")
            return files

        wait_until(lambda: len(candidates()) >= 2, 120, "two candidates are made")
        (job,) = set(jobs(shell)) - before
        os.kill(worker_of(job), signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and f"maas optimize --resume {job.name}" in err
    times = {path: path.stat().st_mtime_ns for path in candidates()}
    again = shell.json("optimize", "--resume", job.name)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert {c["name"] for c in again["candidates"]} == {"onnx", *UNTRAINED}


def test_unsent_results_are_reported_and_can_be_sent(shell: Shell) -> None:
    before = set(jobs(shell))
    words = ("optimize", "digits", "--gate", "accuracy>=-0.45", *QUICK, *CHEAP)
    with start(shell, *words) as process:
        wait_until(lambda: any(is_running(j) for j in set(jobs(shell)) - before), 60, "it runs")
        process.kill()
        process.communicate(timeout=60)
    (job,) = set(jobs(shell)) - before
    state = ("jobs", "show", job.name)
    wait_until(lambda: shell.json(*state)["state"] == "succeeded", 120, "the job has ended")
    hint = f"not sent yet: `maas optimize --resume {job.name}`"
    assert hint in " ".join(shell.maas("jobs").out.split())
    assert hint in shell.maas(*state).out
    assert shell.json(*state)["unsent"]
    sent = shell.json("optimize", "--resume", job.name)
    assert {c["name"] for c in sent["candidates"]} == {"onnx", *UNTRAINED}
    assert "not sent" not in shell.maas("jobs").out + shell.maas(*state).out
    assert "unsent" not in shell.json(*state)


def test_the_latest_measurement_decides_even_if_it_was_rejected(shell: Shell) -> None:
    """Otherwise repeats until a candidate passes by chance would satisfy a deployment's gate."""
    words = ("optimize", "digits", *QUICK, "--candidate", "onnx-fp16")
    assert candidate_of(shell.json(*words, "--gate", "accuracy>=-0.42"), "onnx-fp16")["passed"]
    deploy = ("deploy", "last", "--model", "digits", "--variant", "onnx-fp16", "--replicas", "0",
              "--wait", "0", "--gate")  # fmt: skip
    assert shell.maas(*deploy, "speedup>=0.0001").code == 0
    before = evidence(shell, "measurement", "onnx-fp16")
    again = candidate_of(shell.json(*words, "--gate", "speedup>=1000"), "onnx-fp16")
    assert not again["passed"]
    after = evidence(shell, "measurement", "onnx-fp16")
    assert len(after) == len(before) + 1
    assert after[-1]["created_at"] > before[-1]["created_at"]
    shell.maas("undeploy", "last")


def candidate_of(optimization: Any, name: str) -> Any:
    return next(c for c in optimization["candidates"] if c["name"] == name)


def evidence(shell: Shell, kind: str, variant: str) -> list[Any]:
    """Evidence of a variant, oldest first."""
    _, _, body = shell.stack.request("GET", "/api/v1/models/digits/versions/1")
    every = json.loads(body)["evidence"]
    matching = [e for e in every if (e["kind"], e["variant"]) == (kind, variant)]
    return sorted(matching, key=lambda e: float(e["created_at"]))


def is_running(job: Path) -> bool:
    file = job / "job.json"
    return file.is_file() and json.loads(file.read_bytes())["state"] == "running"


def worker_of(job: Path) -> int:
    pgrep = subprocess.run(
        ["pgrep", "-f", f"maas.processes.job {job}/spec.json"], capture_output=True, text=True
    )
    return int(pgrep.stdout.split()[0])


def test_a_full_disk_stops_the_job_and_leaves_nothing_incomplete(shell: Shell) -> None:
    present, before = variants(shell), set(jobs(shell))
    version = shell.stack.client().models.version("digits:1").version
    original = version.manifest.variants[0].files[0].size
    words = ("optimize", "digits", "--gate", "accuracy>=-0.4", *QUICK, *CHEAP)
    # The first limit stops the download of the original, the second one a larger candidate.
    for largest_file in (original // 2, original + 50):
        with start(shell, *words, largest_file=largest_file) as process:
            _, err = process.communicate(timeout=240)
        assert process.returncode == 1
        assert "no space is left" in err, err
    assert variants(shell) == present
    (job,) = set(jobs(shell)) - before
    assert not (job / "work" / "staging").exists()
    assert not (job / "publication" / "optimization.json").exists()
