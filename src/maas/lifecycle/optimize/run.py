"""A complete optimization of a version, in a job or in a Python session."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.jobs import Progress
from maas.domain.models import Manifest, Task
from maas.lifecycle.optimize.ledger import space
from maas.lifecycle.optimize.measurement.estimator_baseline import compare_with_estimator
from maas.lifecycle.optimize.optimize import (
    OptimizationOutcome,
    OptimizationRequest,
    ProgressReporter,
    optimize,
)
from maas.lifecycle.optimize.prepare import prepare_optimization
from maas.lifecycle.optimize.publication import PreparedOptimization
from maas.lifecycle.optimize.source import find_build, subject_of_build, subject_of_data
from maas.lifecycle.optimize.subject import Subject
from maas.lifecycle.optimize.text.subject import TextSubject, generates_text, text_subject
from maas.lifecycle.recipe import OptimizeStep, optimize_step


@dataclass(frozen=True)
class OptimizationJob:
    """A version and the parameters of its optimization, as stored in a job's folder."""

    ref: str
    """MODEL:VERSION"""
    manifest: Manifest
    original: Path
    """Local file of the version's first variant."""
    step: OptimizeStep
    data: Path | None = None
    """NPZ file with X and optionally y, for a version that was not built on this machine."""
    text: Path | None = None
    """Text to compare language models on; None: the text of this package."""

    @classmethod
    def of_job(cls, options: dict[str, Any], original: Path) -> OptimizationJob:
        """From the options of a job's spec."""
        return cls(
            ref=options["ref"],
            manifest=Manifest.from_dict(options["manifest"]),
            original=original,
            step=optimize_step(options["step"]),
            data=Path(options["data"]) if options["data"] else None,
            text=Path(options["text"]) if options.get("text") else None,
        )


def run_optimization_job(
    job: OptimizationJob,
    jobs_dir: Path,
    workdir: Path,
    progress: ProgressReporter | None = None,
) -> PreparedOptimization:
    """Optimizes a version and prepares the results for the server, without sending them.

    Steps that a former run finished in `workdir` are reused. Raises InvalidInput if there is no
    data to judge candidates with, OutOfSpace, BuildCancelled.
    """
    progress = progress or ProgressReporter()
    subject = _subject(job, jobs_dir, progress)
    gate = job.step.gate or default_gate(subject)
    runs = job.step.runs or default_runs(subject)
    request = OptimizationRequest(
        model=job.ref,
        objective=job.step.objective,
        gate=gate,
        candidates=job.step.candidates,
        seconds=job.step.seconds,
        runs=runs,
        seed=job.step.seed,
        epochs=job.step.epochs,
        command=command_of(job, gate, runs),
    )
    with space(workdir):
        outcome = optimize(subject, request, workdir, progress)
        outcome = _with_estimator(subject, outcome, request)
        progress.update("writing the report")
        return prepare_optimization(outcome, workdir)


def default_gate(subject: Subject | TextSubject) -> str:
    """Gate of a request without one: at most one point of accuracy, one percent of an error, or
    five percent of a perplexity may be lost."""
    if isinstance(subject, TextSubject):
        return "perplexity<=+5%"
    if subject.rows.y is None:
        return "agreement>=0.98"
    return "rmse<=+1%" if subject.rows.task is Task.REGRESSION else "accuracy>=-0.01"


def default_runs(subject: Subject | TextSubject) -> int:
    """Fewer for a language model, because a run takes many times as long."""
    return 4 if isinstance(subject, TextSubject) else 8


def command_of(job: OptimizationJob, gate: str, runs: int) -> str:
    """The command that repeats this optimization."""
    step, parts = job.step, ["maas", "optimize", job.ref]
    parts += ["--objective", step.objective, "--gate", gate]
    parts += ["--seconds", f"{step.seconds:g}", "--runs", str(runs)]
    parts += ["--seed", str(step.seed)]
    if step.epochs:
        parts += ["--epochs", str(step.epochs)]
    if job.data is not None:
        parts += ["--data", str(job.data)]
    if job.text is not None:
        parts += ["--text", str(job.text)]
    for name in step.candidates:
        parts += ["--candidate", name]
    return shlex.join(parts)


def _subject(
    job: OptimizationJob, jobs_dir: Path, progress: ProgressReporter
) -> Subject | TextSubject:
    if generates_text(job.manifest):
        if job.data is not None:
            raise InvalidInput(
                "--data is for models that answer rows; a language model is compared on a text: "
                "use --text",
                field="data",
            )
        return text_subject(job.manifest, job.original, job.text)
    if job.text is not None:
        raise InvalidInput("--text is for language models; other models use --data", field="text")
    if job.data is not None:
        return subject_of_data(job.manifest, job.original, job.data)
    build = find_build(jobs_dir, job.manifest.digest)
    if build is None:
        raise InvalidInput(
            f"{job.ref} was not built on this machine, so its rows are not available. Provide rows "
            "with --data rows.npz: X [n, …], and y [n] if there are labels",
            field="data",
        )

    def report(step: Progress) -> None:
        progress.update(step.message)

    return subject_of_build(job.manifest, job.original, build, report)


def _with_estimator(
    subject: Subject | TextSubject, outcome: OptimizationOutcome, request: OptimizationRequest
) -> OptimizationOutcome:
    """Adds the comparison with the scikit-learn estimator, if the version was built from one."""
    if isinstance(subject, TextSubject) or subject.estimator is None:
        return outcome
    seconds = request.seconds * request.runs
    comparison = compare_with_estimator(subject, outcome.candidates, seconds)
    how = {**outcome.optimization.how, "estimator": comparison}
    return replace(outcome, optimization=replace(outcome.optimization, how=how))
