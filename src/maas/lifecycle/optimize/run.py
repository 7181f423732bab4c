"""One optimization from a version to what the server gets, in a job or in a session."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.jobs import Progress
from maas.domain.models import Manifest, Task
from maas.lifecycle.optimize.engine import (
    OptimizationOutcome,
    OptimizationRequest,
    ProgressReporter,
    optimize,
)
from maas.lifecycle.optimize.ledger import space
from maas.lifecycle.optimize.measurement.estimator_baseline import beside_estimator
from maas.lifecycle.optimize.prepare import prepare_optimization
from maas.lifecycle.optimize.publication import PreparedOptimization
from maas.lifecycle.optimize.source import find_build, subject_of_build, subject_of_data
from maas.lifecycle.optimize.subject import Subject
from maas.lifecycle.optimize.text.subject import TextSubject, text_subject, writes_text
from maas.lifecycle.recipe import OptimizeStep, optimize_step


@dataclass(frozen=True)
class OptimizationJob:
    """A version and what is wanted of it, as a job's folder keeps it."""

    ref: str
    """MODEL:VERSION"""
    manifest: Manifest
    original: Path
    """The file of the version's first variant, on this machine."""
    step: OptimizeStep
    data: Path | None = None
    """NPZ file with X and maybe y, for a version that was not built here."""
    text: Path | None = None
    """A text to compare language models on; None: the one of this package."""

    @classmethod
    def of_job(cls, options: dict[str, Any], original: Path) -> OptimizationJob:
        """As the options of a job's spec say."""
        return cls(
            ref=options["ref"],
            manifest=Manifest.from_dict(options["manifest"]),
            original=original,
            step=optimize_step(options["step"]),
            data=Path(options["data"]) if options["data"] else None,
            text=Path(options["text"]) if options.get("text") else None,
        )


def run_optimization_job(
    order: OptimizationJob, jobs_dir: Path, workdir: Path, watch: ProgressReporter | None = None
) -> PreparedOptimization:
    """Everything but the sending. What is finished in `workdir` is not done again.

    Raises InvalidInput if there is nothing to judge candidates with, OutOfSpace, BuildCancelled.
    """
    watch = watch or ProgressReporter()
    subject = _subject(order, jobs_dir, watch)
    gate = order.step.gate or default_gate(subject)
    runs = order.step.runs or default_runs(subject)
    request = OptimizationRequest(
        model=order.ref,
        objective=order.step.objective,
        gate=gate,
        candidates=order.step.candidates,
        seconds=order.step.seconds,
        runs=runs,
        seed=order.step.seed,
        epochs=order.step.epochs,
        command=command_of(order, gate, runs),
    )
    with space(workdir):
        found = _with_estimator(subject, optimize(subject, request, workdir, watch), request)
        watch.say("writing the report")
        return prepare_optimization(found, workdir)


def default_gate(subject: Subject | TextSubject) -> str:
    """What may be lost if nobody says: at most one point, one percent of an error, or five percent
    of a perplexity."""
    if isinstance(subject, TextSubject):
        return "perplexity<=+5%"
    if subject.rows.y is None:
        return "agreement>=0.98"
    return "rmse<=+1%" if subject.rows.task is Task.REGRESSION else "accuracy>=-0.01"


def default_runs(subject: Subject | TextSubject) -> int:
    """Of a language model fewer, for one takes many times as long."""
    return 4 if isinstance(subject, TextSubject) else 8


def command_of(order: OptimizationJob, gate: str, runs: int) -> str:
    """The command that does the same again."""
    step, parts = order.step, ["maas", "optimize", order.ref]
    parts += ["--objective", step.objective, "--gate", gate]
    parts += ["--seconds", f"{step.seconds:g}", "--runs", str(runs)]
    parts += ["--seed", str(step.seed)]
    if step.epochs:
        parts += ["--epochs", str(step.epochs)]
    if order.data is not None:
        parts += ["--data", str(order.data)]
    if order.text is not None:
        parts += ["--text", str(order.text)]
    for name in step.candidates:
        parts += ["--candidate", name]
    return shlex.join(parts)


def _subject(
    order: OptimizationJob, jobs_dir: Path, watch: ProgressReporter
) -> Subject | TextSubject:
    if writes_text(order.manifest):
        if order.data is not None:
            raise InvalidInput("a language model is compared on a text: --text", field="data")
        return text_subject(order.manifest, order.original, order.text)
    if order.text is not None:
        raise InvalidInput("a text is for language models; others need --data", field="text")
    if order.data is not None:
        return subject_of_data(order.manifest, order.original, order.data)
    build = find_build(jobs_dir, order.manifest.digest)
    if build is None:
        raise InvalidInput(
            f"{order.ref} was not built on this machine, so its rows are not here. Give some with "
            "--data rows.npz: X [n, …], and y [n] if there are labels",
            field="data",
        )

    def report(progress: Progress) -> None:
        watch.say(progress.message)

    return subject_of_build(order.manifest, order.original, build, report)


def _with_estimator(
    subject: Subject | TextSubject, found: OptimizationOutcome, request: OptimizationRequest
) -> OptimizationOutcome:
    if isinstance(subject, TextSubject) or subject.estimator is None:
        return found
    seconds = request.seconds * request.runs
    beside = beside_estimator(subject, found.candidates, seconds)
    how = {**found.optimization.how, "estimator": beside}
    return replace(found, optimization=replace(found.optimization, how=how))
