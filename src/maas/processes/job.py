"""The job process: one build, evaluation or optimization on its owner's machine.

    python -m maas.processes.job PATH/spec.json

The job publishes its state in the folder of the spec (maas/lifecycle/job_folder.py). If it gets
settings as JSON on stdin, it also reports to their server and stops when the server has a cancel
request. It works without a server, too.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from maas.client.client import Client
from maas.domain.errors import InvalidInput, MaasError, NotFound
from maas.domain.jobs import Job, JobState, Progress
from maas.lifecycle.build import BuildCancelled, build
from maas.lifecycle.data.dataset import load_dataset, split
from maas.lifecycle.job_folder import JobFolder, JobSpec
from maas.lifecycle.prepared_publication import PreparedPublication
from maas.lifecycle.publish import (
    evaluate_built,
    evaluate_publication,
    prepare_built,
)
from maas.lifecycle.publish_inputs import PublishOptions
from maas.lifecycle.recipe import Recipe
from maas.settings import Settings

SAVE_EVERY_S = 0.1
REPORT_EVERY_S = 1.0


class Tracker:
    """Reports the job to its folder and the server, and collects requests to cancel it."""

    def __init__(self, folder: JobFolder, client: Client | None) -> None:
        self.folder = folder
        self._client = client
        self._job = replace(folder.job(), state=JobState.RUNNING, error="", result={})
        self._stop = threading.Event()
        self._finished = threading.Event()
        self._saved_at = 0.0
        self._save()
        self._reporter = threading.Thread(target=self._run_reporter, daemon=True)
        self._reporter.start()

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop.set()

    def report(self, progress: Progress) -> None:
        self._job = replace(self._job, progress=progress)
        if time.monotonic() - self._saved_at >= SAVE_EVERY_S or progress.done == progress.total:
            with suppress(OSError):  # on a full disk the job itself fails
                self._save()

    def cancelled(self) -> bool:
        return self._stop.is_set() or self.folder.cancel_requested

    def end(self, state: JobState, result: dict[str, Any] | None = None, error: str = "") -> None:
        self._job = replace(self._job, state=state, result=result or {}, error=error)
        self._save()
        self._finished.set()
        self._reporter.join(timeout=10)

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        self._job = replace(self._job, updated_at=time.time())
        self.folder.save(self._job)

    def _run_reporter(self) -> None:
        """Reports to the server from a thread, because the server may be slow or unavailable."""
        if self._client is None:
            return
        sent: Job | None = None
        registered = False
        finished = False
        while not finished:
            finished = self._finished.wait(REPORT_EVERY_S if registered else 0.0)
            job = self._job
            try:
                if not registered:
                    _register(self._client, job)
                    registered = True
                # An unchanged job is reported, too, so that the server does not mark it as lost.
                stored = self._client.jobs.update(job.id, _changes(job, sent))
                sent = job
                if stored.cancel_requested and not job.state.is_final:
                    self._stop.set()
            except MaasError:
                if not registered and self._finished.wait(REPORT_EVERY_S):
                    return


def _register(client: Client, job: Job) -> None:
    try:
        client.jobs.get(job.id)  # a resumed job exists already
    except NotFound:
        client.jobs.create(job)


def _changes(job: Job, sent: Job | None) -> dict[str, Any]:
    raw = job.to_dict()
    changes = {"state": raw["state"], "progress": raw["progress"]}
    if sent is None or job.state.is_final:
        changes |= {"result": raw["result"], "error": raw["error"]}
    return changes


def run_build(folder: JobFolder, spec: JobSpec, tracker: Tracker) -> dict[str, Any]:
    """Builds, evaluates, checks the gates, and saves a publication in the folder."""
    recipe = Recipe.from_dict(spec.recipe, Path(spec.directory))
    tracker.report(Progress(message="loading"))
    built = build(
        recipe.build, workdir=folder.work, report=tracker.report, cancelled=tracker.cancelled
    )
    tracker.report(replace(folder.job().progress, message="evaluating"))
    evaluation = evaluate_built(built, recipe.evaluate.seed, recipe.evaluate.resamples)
    gates = [g.check(evaluation.values).to_dict() for g in recipe.evaluate.parsed_gates()]
    tracker.report(replace(folder.job().progress, message="writing the report"))
    test = split(load_dataset(recipe.build.data), recipe.build.split).test
    prepared = prepare_built(
        built,
        PublishOptions(
            name=recipe.name,
            description=recipe.description,
            evaluation=evaluation,
            metadata={"recipe": recipe.raw},
        ),
        folder.work,
        explained_rows=recipe.evaluate.explained_rows,
        test_rows=test.x,
    )
    prepared.save(folder.publication)
    training = {k: v for k, v in built.training.items() if k != "curves"}
    return {
        "metrics": evaluation.values["metrics"],
        "intervals": evaluation.values.get("intervals", {}),
        "gates": gates,
        "training": training,
        "parity": built.parity,
        "publication": str(folder.publication),
    }


def run_evaluation(folder: JobFolder, spec: JobSpec, tracker: Tracker) -> dict[str, Any]:
    """Measures the file of a finished build on the held-out test rows of the recipe."""
    recipe = Recipe.from_dict(spec.recipe, Path(spec.directory))
    tracker.report(Progress(0, 1, "evaluating"))
    prepared = PreparedPublication.load(Path(spec.publication))
    test = split(load_dataset(recipe.build.data), recipe.build.split).test
    evaluation, measured = evaluate_publication(prepared, test, recipe.evaluate, folder.work)
    gates = [g.check(evaluation.values).to_dict() for g in recipe.evaluate.parsed_gates()]
    measured.save(folder.publication)
    tracker.report(Progress(1, 1, "evaluated"))
    return {
        "metrics": evaluation.values["metrics"],
        "intervals": evaluation.values.get("intervals", {}),
        "gates": gates,
        "publication": str(folder.publication),
    }


def run_optimization(folder: JobFolder, spec: JobSpec, tracker: Tracker) -> dict[str, Any]:
    """Makes, measures and judges candidates, and saves those that passed in the folder."""
    # These import the libraries for statistics and plots, which a build does not need.
    from maas.lifecycle.optimize.ledger import space  # noqa: PLC0415
    from maas.lifecycle.optimize.optimize import ProgressReporter  # noqa: PLC0415
    from maas.lifecycle.optimize.publication import ORIGINAL  # noqa: PLC0415
    from maas.lifecycle.optimize.run import OptimizationJob, run_optimization_job  # noqa: PLC0415

    tracker.report(Progress(message="loading"))
    job = OptimizationJob.of_job(spec.options, folder.work / ORIGINAL)
    progress = ProgressReporter(tracker.report, tracker.cancelled)
    prepared = run_optimization_job(job, folder.path.parent, folder.work, progress)
    with space(folder.path):
        prepared.save(folder.publication)
        folder.mark_unsent()
    return prepared.summary | {"publication": str(folder.publication)}


KINDS: dict[str, Callable[[JobFolder, JobSpec, Tracker], dict[str, Any]]] = {
    "build": run_build,
    "evaluate": run_evaluation,
    "optimize": run_optimization,
}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m maas.processes.job PATH/spec.json", file=sys.stderr)  # noqa: T201
        return 2
    os.umask(0o077)  # data and models are readable by their owner only
    folder = JobFolder(Path(arguments[0]).resolve().parent)
    spec = folder.spec()
    with folder.lock():
        tracker = Tracker(folder, _client())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, tracker.on_signal)
        try:
            kind = KINDS.get(spec.kind)
            if kind is None:
                raise InvalidInput(
                    f"unknown kind of job {spec.kind!r}; expected one of {', '.join(KINDS)}"
                )
            tracker.end(JobState.SUCCEEDED, kind(folder, spec, tracker))
        except BuildCancelled as stopped:
            tracker.end(JobState.CANCELLED, error=stopped.message)
            return 130
        except MaasError as error:
            tracker.end(JobState.FAILED, error=error.message)
            return 1
        except Exception as error:  # noqa: BLE001 — the process boundary: user code runs here
            traceback.print_exc()
            tracker.end(JobState.FAILED, error=f"{type(error).__name__}: {error}")
            return 1
    return 0


def _client() -> Client | None:
    """A client for the server of the settings on stdin; None without settings or a key."""
    text = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read()
    if not text.strip():
        return None
    settings = Settings.from_json(text)
    with suppress(MaasError):
        return Client(settings.base_url, settings.api_key, timeout=5.0, retries=0)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
