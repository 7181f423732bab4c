"""Jobs in the database: updates, cancellation and loss."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace

import pytest
from sqlalchemy import update

from maas.domain.errors import Conflict, InvalidInput, NotFound
from maas.domain.jobs import Job, JobState, Progress
from maas.storage import schema
from maas.storage.database import Database
from maas.storage.jobs import Jobs
from tests.integration.storage.conftest import Clock

JOB = Job("j1", "build", "digits", JobState.QUEUED, spec={"epochs": 3})


def test_a_job_survives_a_round_trip(db: Database, clock: Clock) -> None:
    created = Jobs(db).create(JOB)
    assert created == replace(JOB, created_at=clock.seconds, updated_at=clock.seconds)
    assert Jobs(db).get("j1") == created
    with pytest.raises(Conflict, match="j1"):
        Jobs(db).create(JOB)
    with pytest.raises(NotFound):
        Jobs(db).get("absent")
    with pytest.raises(NotFound, match=r"^there is no job 'j11'; did you mean 'j1'\?$"):
        Jobs(db).get("j11")
    with pytest.raises(NotFound):
        Jobs(db).update("absent", state=JobState.RUNNING)


def test_an_update_changes_only_its_fields(db: Database, clock: Clock) -> None:
    jobs = Jobs(db)
    jobs.create(JOB)
    clock.seconds += 1
    progress = Progress(1, 3, "epoch 1", {"loss": 0.5}, 2.5)
    running = jobs.update("j1", state=JobState.RUNNING, progress=progress)
    assert (running.state, running.progress) == (JobState.RUNNING, progress)
    assert running.updated_at == running.created_at + 1
    done = jobs.update("j1", state=JobState.SUCCEEDED, result={"version": 4})
    assert done == replace(running, state=JobState.SUCCEEDED, result={"version": 4})
    assert jobs.get("j1") == done


@pytest.mark.parametrize("final", [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED])
def test_a_final_state_never_changes(db: Database, final: JobState) -> None:
    jobs = Jobs(db)
    jobs.create(JOB)
    ended = jobs.update("j1", state=final, error="as it was")
    assert jobs.update("j1", state=final, error="again") == ended
    for state in (None, *JobState):
        if state is not final:
            with pytest.raises(Conflict, match=str(final)):
                jobs.update("j1", state=state, progress=Progress(9, 9))
    assert jobs.mark_lost(0) == 0
    assert jobs.get("j1") == ended


def test_the_next_report_returns_a_cancel_request(db: Database, clock: Clock) -> None:
    jobs = Jobs(db)
    jobs.create(JOB)
    clock.seconds += 5
    wished = jobs.request_cancel("j1")
    assert wished.cancel_requested
    assert wished.updated_at == clock.seconds - 5, "not a word of the job's process"
    assert jobs.update("j1", progress=Progress(1, 2)).cancel_requested
    cancelled = jobs.update("j1", state=JobState.CANCELLED)
    assert jobs.request_cancel("j1") == cancelled
    jobs.create(replace(JOB, id="j2", state=JobState.RUNNING))
    jobs.update("j2", state=JobState.SUCCEEDED)
    with pytest.raises(Conflict, match="succeeded"):
        jobs.request_cancel("j2")


def test_a_silent_job_is_lost_until_its_next_report(db: Database, clock: Clock) -> None:
    jobs = Jobs(db)
    jobs.create(replace(JOB, state=JobState.RUNNING))
    jobs.create(replace(JOB, id="queued"))
    clock.seconds += 25
    jobs.create(replace(JOB, id="fresh"))
    clock.seconds += 5
    assert jobs.mark_lost(30) == 2
    assert jobs.mark_lost(30) == 0
    states = {job.id: job.state for job in jobs.list()}
    assert states == {"j1": "lost", "queued": "lost", "fresh": "queued"}
    assert jobs.update("j1", progress=Progress(1, 2)).state is JobState.RUNNING
    assert jobs.update("queued", state=JobState.FAILED).state is JobState.FAILED


def test_the_newest_jobs_come_first(db: Database, clock: Clock) -> None:
    jobs = Jobs(db)
    for i in range(4):
        clock.seconds += 1
        jobs.create(replace(JOB, id=f"j{i}", kind="build" if i % 2 else "evaluate"))
    assert [job.id for job in jobs.list()] == ["j3", "j2", "j1", "j0"]
    assert [job.id for job in jobs.list("build")] == ["j3", "j1"]
    assert [job.id for job in jobs.list(limit=1)] == ["j3"]
    assert jobs.list("optimize") == []


def test_a_loss_of_nan_is_refused(db: Database) -> None:
    Jobs(db).create(JOB)
    with pytest.raises(InvalidInput, match="progress"):
        Jobs(db).update("j1", progress=Progress(1, 2, values={"loss": float("nan")}))


def test_an_uncommitted_final_state_is_not_overwritten(db: Database) -> None:
    jobs = Jobs(db)
    jobs.create(replace(JOB, state=JobState.RUNNING))
    with ThreadPoolExecutor(1) as pool:
        with db.begin() as connection:
            connection.execute(update(schema.jobs).values(state="succeeded"))
            late = pool.submit(jobs.update, "j1", progress=Progress(1, 2))
            wait([late], timeout=0.3)
        with pytest.raises(Conflict, match="succeeded"):
            late.result()
    assert jobs.get("j1").state is JobState.SUCCEEDED
