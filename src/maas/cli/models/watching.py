"""Starts a job's process and shows how far it is, until it ends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from maas.cli.background import start_in_background
from maas.cli.common import say
from maas.domain.errors import Conflict, MaasError
from maas.domain.jobs import Job, JobState
from maas.settings import Settings

if TYPE_CHECKING:
    from maas.lifecycle.job_folder import JobFolder

POLL_S = 0.1
LINE_EVERY_S = 10.0


class JobFailed(MaasError):
    """The job ended without a result."""

    code = "job_failed"


def start(folder: JobFolder, settings: Settings) -> subprocess.Popen[bytes]:
    """The job's process; it lives on if this one dies, and Ctrl-C here does not reach it."""
    folder.clear_cancel()
    folder.save(replace(folder.job(), state=JobState.QUEUED, cancel_requested=False, error=""))
    with folder.log.open("ab") as log:
        spec = str(folder.path / "spec.json")
        return start_in_background(["maas.processes.job", spec], settings, log)


def watch(folder: JobFolder, process: subprocess.Popen[bytes]) -> Job:
    """The finished job. Ctrl-C, or SIGTERM, asks it to stop and waits until it has; a second Ctrl-C
    does not wait. Raises KeyboardInterrupt after a cancel, JobFailed with the reason and the
    log."""
    asked = False
    with _sigterm_cancels(folder), _display() as display:
        while True:
            try:
                running = process.poll() is None
                display.show(folder.job())
                if not running:
                    break
                time.sleep(POLL_S)
            except KeyboardInterrupt:
                if asked:
                    say(f"it stops by itself; see `maas jobs show {folder.path.name}`")
                    raise
                folder.request_cancel()
                asked = True
                say("stopping at the next step; Ctrl-C again does not wait")
    return finished(folder)


@contextmanager
def _sigterm_cancels(folder: JobFolder) -> Iterator[None]:
    """However many come: `timeout`, for one, sends two."""
    before = signal.signal(signal.SIGTERM, lambda *_: folder.request_cancel())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def finished(folder: JobFolder) -> Job:
    job = folder.job()
    if job.state is JobState.SUCCEEDED:
        return job
    again = f"`maas {job.kind} --resume {job.id}` goes on from what is finished"
    if job.kind == "evaluate":
        again = "start it again"
    if job.state is JobState.CANCELLED:
        say(f"job {job.id} is cancelled; {again}")
        raise KeyboardInterrupt
    if job.state is JobState.FAILED:
        raise JobFailed(f"job {job.id} failed: {job.error}\nits log: {folder.log}")
    tail = "".join(folder.log.read_text(errors="replace").splitlines(True)[-10:])
    raise JobFailed(f"the process of job {job.id} ended without a word; {again}\n{tail}".rstrip())


def check_gates(job: Job) -> None:
    """Says how every gate did; raises Conflict if one does not hold."""
    failed = [g for g in job.result.get("gates", []) if not g["passed"]]
    for gate in job.result.get("gates", []):
        say(f"gate {_gate_text(gate)}")
    if failed:
        raise Conflict(f"gate {_gate_text(failed[0])}; nothing was published")


def metrics_line(job: Job, most: int = 4) -> str:
    """The first metrics in a line: `accuracy 0.983 [0.969, 0.994], …`."""
    intervals = job.result.get("intervals", {})
    parts: list[str] = []
    for name, value in job.result.get("metrics", {}).items():
        if isinstance(value, int | float) and len(parts) < most:
            low_high = intervals.get(name)
            span = f" [{low_high[0]:.4g}, {low_high[1]:.4g}]" if low_high else ""
            parts.append(f"{name} {value:.4g}{span}")
    return ", ".join(parts)


def _gate_text(gate: dict[str, Any]) -> str:
    value = "undefined" if gate["value"] is None else f"{gate['value']:.4g}"
    span = f" [{gate['interval'][0]:.4g}, {gate['interval'][1]:.4g}]" if gate["interval"] else ""
    return f"{gate['rule']} {'holds' if gate['passed'] else 'fails'}: measured {value}{span}"


def _display() -> AbstractContextManager[ProgressLines | ProgressBar]:
    if sys.stderr.isatty():
        return ProgressBar()
    return nullcontext(ProgressLines())


class ProgressLines:
    """For a file or a pipe: a line for each phase, and now and then one within it."""

    def __init__(self) -> None:
        self._phase: str | None = None
        self._said_at = 0.0

    def show(self, job: Job) -> None:
        progress = job.progress
        due = time.monotonic() - self._said_at > LINE_EVERY_S
        phase = re.sub(r"\d+", "", progress.message)  # the epoch's number makes no new phase
        if (phase != self._phase or due) and (progress.total or progress.message):
            self._phase, self._said_at = phase, time.monotonic()
            say(f"{job.name}: {_counts(job)} {_values(job)}".rstrip())


class ProgressBar(AbstractContextManager["ProgressBar"]):
    """For a terminal: a bar with what the job reports, and when it will be done."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        # The values get what is left of the line, so that they never squeeze out the bar.
        rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        self._bar = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=20),
            TextColumn(
                "{task.fields[counts]} {task.fields[eta]}", table_column=Column(no_wrap=True)
            ),
            TextColumn("{task.fields[values]}", style="dim", table_column=rest),
            console=Console(stderr=True),
            transient=True,
            expand=True,
        )
        self._task = self._bar.add_task("starting", total=None, counts="", values="", eta="")

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, job: Job) -> None:
        progress = job.progress
        eta = "" if progress.eta_seconds is None else f"{progress.eta_seconds:.0f} s left"
        self._bar.update(
            self._task,
            description=f"{job.kind} {job.name}",
            completed=progress.done,
            total=progress.total or None,
            counts=progress.message or _counts(job),
            values=_values(job),
            eta=eta,
        )


def _counts(job: Job) -> str:
    progress = job.progress
    counts = f"{progress.done}/{progress.total}" if progress.total else ""
    return f"{progress.message} {counts}".strip()


def _values(job: Job) -> str:
    """Losses first: the end is cut where there is no room."""
    values = sorted(job.progress.values.items(), key=lambda kv: "loss" not in kv[0])
    return " ".join(f"{k} {v:.4g}" for k, v in values)
