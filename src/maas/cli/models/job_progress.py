"""Starts the process of a job and shows its progress until it exits."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from maas.cli.background import start_in_background
from maas.cli.output import notify
from maas.domain.errors import Conflict, MaasError
from maas.domain.jobs import Job, JobState
from maas.domain.numbers import format_number
from maas.settings import Settings

if TYPE_CHECKING:
    from maas.lifecycle.job_folder import JobFolder

POLL_S = 0.1
LINE_EVERY_S = 10.0


class JobFailed(MaasError):
    """The job failed."""

    code = "job_failed"


def start(folder: JobFolder, settings: Settings) -> subprocess.Popen[bytes]:
    """Start the process of a job. It outlives this process, and Ctrl-C here does not reach it."""
    folder.clear_cancel()
    folder.save(replace(folder.job(), state=JobState.QUEUED, cancel_requested=False, error=""))
    with folder.log.open("ab") as log:
        spec = str(folder.path / "spec.json")
        return start_in_background(["maas.processes.job", spec], settings, log)


def wait_for(folder: JobFolder, process: subprocess.Popen[bytes]) -> Job:
    """Show the progress of a job until its process exits, and return the finished job.

    Ctrl-C or SIGTERM cancels the job and waits for it; a second Ctrl-C does not wait. Raises
    KeyboardInterrupt after a cancel, JobFailed with the reason and the log.
    """
    cancelled = False
    with _sigterm_cancels(folder), _display() as display:
        while True:
            try:
                running = process.poll() is None
                display.show(folder.job())
                if not running:
                    break
                time.sleep(POLL_S)
            except KeyboardInterrupt:
                if cancelled:
                    notify(f"the job stops by itself; see `maas jobs show {folder.path.name}`")
                    raise
                folder.request_cancel()
                cancelled = True
                notify("stopping at the next step; Ctrl-C again does not wait")
    return finished(folder)


@contextmanager
def _sigterm_cancels(folder: JobFolder) -> Iterator[None]:
    """SIGTERM cancels the job, however often it comes: `timeout`, for one, sends it twice."""
    previous = signal.signal(signal.SIGTERM, lambda *_: folder.request_cancel())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def finished(folder: JobFolder) -> Job:
    """The job, if it succeeded. Raises KeyboardInterrupt if it was cancelled, else JobFailed."""
    job = folder.job()
    if job.state is JobState.SUCCEEDED:
        return job
    hint = f"`maas {job.kind} --resume {job.id}` resumes it"
    if job.kind == "evaluate":
        hint = "run the command again"
    if job.state is JobState.CANCELLED:
        notify(f"job {job.id} was cancelled; {hint}")
        raise KeyboardInterrupt
    if job.state is JobState.FAILED:
        raise JobFailed(f"job {job.id} failed: {job.error}\nlog: {folder.log}")
    tail = "".join(folder.log.read_text(errors="replace").splitlines(True)[-10:])
    raise JobFailed(f"the process of job {job.id} exited without a result; {hint}\n{tail}".rstrip())


def check_gates(job: Job) -> None:
    """Print the result of every gate. Raises Conflict if one fails."""
    gates = job.result.get("gates", [])
    for gate in gates:
        notify(f"gate {_gate_text(gate)}")
    failed = [gate for gate in gates if not gate["passed"]]
    if failed:
        raise Conflict(f"gate {_gate_text(failed[0])}; nothing was published")


def metrics_line(job: Job, limit: int = 4) -> str:
    """The first metrics in a line: `accuracy 0.983 [0.969, 0.994], …`."""
    intervals = job.result.get("intervals", {})
    parts: list[str] = []
    for name, value in job.result.get("metrics", {}).items():
        if isinstance(value, int | float) and len(parts) < limit:
            parts.append(f"{name} {_with_interval(value, intervals.get(name))}")
    return ", ".join(parts)


def _gate_text(gate: dict[str, Any]) -> str:
    value = "undefined" if gate["value"] is None else format_number(gate["value"])
    if gate["interval"]:
        value = _with_interval(gate["value"], gate["interval"])
    return f"{gate['rule']} {'holds' if gate['passed'] else 'fails'}: measured {value}"


def _with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    """`0.983 [0.969, 0.994]`."""
    text = "undefined" if value is None else format_number(value)
    if not interval:
        return text
    return f"{text} [{format_number(interval[0])}, {format_number(interval[1])}]"


def _display() -> AbstractContextManager[ProgressLines | ProgressBar]:
    if sys.stderr.isatty():
        return ProgressBar()
    return nullcontext(ProgressLines())


class ProgressLines:
    """Progress for a file or a pipe: a line per phase, and one every 10 seconds within it."""

    def __init__(self) -> None:
        self._phase: str | None = None
        self._printed_at = 0.0

    def show(self, job: Job) -> None:
        progress = job.progress
        due = time.monotonic() - self._printed_at > LINE_EVERY_S
        phase = re.sub(r"\d+", "", progress.message)  # another epoch is not another phase
        if (phase != self._phase or due) and (progress.total or progress.message):
            self._phase, self._printed_at = phase, time.monotonic()
            notify(f"{job.name}: {_counts(job)} {_values(job)}".rstrip())


class ProgressBar(AbstractContextManager["ProgressBar"]):
    """Progress for a terminal: a bar with the values of the job and the time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        # The values get the rest of the line, so that they never squeeze out the bar.
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
    """The values of a job, losses first: the end is cut where there is no room."""
    values = sorted(job.progress.values.items(), key=lambda kv: "loss" not in kv[0])
    return " ".join(f"{name} {format_number(value)}" for name, value in values)
