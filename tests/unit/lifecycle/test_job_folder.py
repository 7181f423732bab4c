from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from maas.domain.errors import Conflict, NotFound
from maas.domain.jobs import JobState
from maas.lifecycle import job_folder
from maas.lifecycle.job_folder import JobFolder


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return JobFolder.create(tmp_path, "build", "iris", recipe={"name": "iris"}, directory="/r")


def test_a_new_job_is_queued_with_its_spec(folder: JobFolder) -> None:
    assert folder.job().state is JobState.QUEUED
    spec = folder.spec()
    assert (spec.kind, spec.name, spec.recipe) == ("build", "iris", {"name": "iris"})
    assert folder.work.is_dir()


def test_home_and_jobs_are_private(tmp_path: Path) -> None:
    jobs = tmp_path / "home" / "jobs"
    before = os.umask(0o022)
    try:
        folder = JobFolder.create(jobs, "build", "iris", recipe={}, directory="/r")
        jobs.chmod(0o755)  # as earlier versions left it
        JobFolder.create(jobs, "build", "iris", recipe={}, directory="/r")
    finally:
        os.umask(before)
    for directory in (jobs.parent, jobs, folder.path, folder.work):
        assert directory.stat().st_mode & 0o077 == 0, directory


def test_an_incomplete_job_folder_is_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    write = job_folder._write

    def looked_at(path: Path, value: object) -> None:
        assert JobFolder.all(tmp_path) == []
        write(path, value)
        written.append(path.name)
        for folder in JobFolder.all(tmp_path):
            assert folder.job().state is JobState.QUEUED

    monkeypatch.setattr(job_folder, "_write", looked_at)
    folder = JobFolder.create(tmp_path, "build", "iris", recipe={}, directory="/r")
    assert len(written) == 2
    assert JobFolder.all(tmp_path) == [folder]


def test_a_running_job_without_a_process_is_lost(folder: JobFolder) -> None:
    folder.save(replace(folder.job(), state=JobState.RUNNING))
    assert folder.job().state is JobState.LOST
    with folder.lock():
        assert folder.job().state is JobState.RUNNING


def test_the_kernel_releases_the_lock_of_a_killed_process(folder: JobFolder) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from maas.lifecycle.job_folder import JobFolder\n"
        f"with JobFolder(Path({str(folder.path)!r})).lock():\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert folder.is_alive()
        with pytest.raises(Conflict, match="another process"), folder.lock(timeout_s=0.05):
            pass
        process.kill()
        process.wait()
    assert not folder.is_alive()


def test_a_cancel_request_can_be_cleared(folder: JobFolder) -> None:
    folder.request_cancel()
    assert folder.job().cancel_requested
    folder.clear_cancel()
    assert not folder.job().cancel_requested


def test_files_are_replaced_atomically(folder: JobFolder) -> None:
    folder.save(replace(folder.job(), error="x" * 100_000))
    assert len(json.loads((folder.path / "job.json").read_bytes())["error"]) == 100_000
    assert sorted(p.name for p in folder.path.iterdir()) == ["job.json", "spec.json", "work"]


@pytest.mark.parametrize("job_id", ["nosuch", "../x", "", "A"])
def test_an_unknown_job_is_not_found(folder: JobFolder, job_id: str) -> None:
    with pytest.raises(NotFound):
        JobFolder.open(folder.path.parent, job_id)


def test_jobs_come_newest_first(folder: JobFolder) -> None:
    newer = JobFolder.create(folder.path.parent, "build", "b", recipe={}, directory="")
    newer.save(replace(newer.job(), created_at=folder.job().created_at + 1))
    assert JobFolder.all(folder.path.parent) == [newer, folder]
