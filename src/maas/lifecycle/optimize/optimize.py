"""Optimize: make, compare, measure and judge candidates, and choose the best one.

Every finished step is kept in the work folder, so that a killed optimization can be resumed: each
candidate is made, compared and judged once, and each of its paired runs is measured once.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from maas.domain.errors import InferenceFailed, InvalidInput, MaasError, OutOfSpace
from maas.domain.jobs import Progress
from maas.lifecycle.data.spec import BuildCancelled
from maas.lifecycle.measure import sha256_of
from maas.lifecycle.optimize.judgment.choose import OBJECTIVES, checked_objective, choose
from maas.lifecycle.optimize.judgment.gate import Gate, judge
from maas.lifecycle.optimize.ledger import Ledger
from maas.lifecycle.optimize.model_kind import CandidateFolder, CandidateSpec, ModelKind
from maas.lifecycle.optimize.results import Candidate, CandidateResult, Optimization
from maas.lifecycle.optimize.subject import NotApplicable, Subject
from maas.lifecycle.optimize.tensor_kind import TensorKind
from maas.lifecycle.optimize.text.kind import TextKind
from maas.lifecycle.optimize.text.subject import TextSubject

Objective = Literal["latency", "throughput", "size", "memory"]


@dataclass(frozen=True)
class OptimizationRequest:
    """Parameters of an optimization."""

    model: str
    """MODEL:VERSION"""
    objective: Objective = "throughput"
    gate: str = ""
    candidates: tuple[str, ...] = ()
    """Names of the candidates to try; empty: all."""
    seconds: float = 0.05
    """Duration of a turn of the measurement."""
    runs: int = 8
    """Number of paired runs of each candidate."""
    seed: int = 0
    epochs: int = 0
    """Epochs of fine-tuning and distillation; 0: as many as the build had."""
    command: str = ""
    """Equivalent command."""


@dataclass(frozen=True)
class OptimizationOutcome:
    """Results of an optimization, with the files of its candidates."""

    optimization: Optimization
    candidates: Mapping[str, Candidate]
    """Candidates that could be made, by name, including the original."""


@dataclass
class ProgressReporter:
    """Reports how many steps are done, and passes on cancellation."""

    report: Callable[[Progress], None] = lambda progress: None
    cancelled: Callable[[], bool] = lambda: False
    done: int = 0
    total: int = 0

    def update(self, message: str) -> None:
        """Reports the current step."""
        self.report(Progress(self.done, self.total, message, {}))

    def raise_if_cancelled(self) -> None:
        if self.cancelled():
            raise BuildCancelled("cancelled; --resume continues with the unfinished steps")


def optimize(
    subject: Subject | TextSubject,
    request: OptimizationRequest,
    workdir: Path,
    progress: ProgressReporter | None = None,
) -> OptimizationOutcome:
    """Tries every method on `subject`. Steps that a former run finished in `workdir` are reused.

    Raises InvalidInput for an invalid request, OutOfSpace if the disk is full (finished steps are
    kept), BuildCancelled.
    """
    progress = progress or ProgressReporter()
    kind: ModelKind[Any]
    if isinstance(subject, TextSubject):
        kind = TextKind(subject, request.seed, request.seconds)
    else:
        kind = TensorKind(subject, request.seed, request.epochs, request.seconds)
    run = _Run(kind, request, workdir, progress)
    candidates = run.make_all()
    results = run.judge_all(candidates)
    chosen, reason = choose(request.objective, results)
    optimization = Optimization(
        model=request.model,
        task=kind.task,
        objective=request.objective,
        gate=run.gate.text,
        results=results,
        chosen=chosen,
        chosen_reason=reason,
        command=request.command,
        how=_how(kind, request),
        created_at=time.time(),
        best={objective: choose(objective, results)[0] for objective in OBJECTIVES},
    )
    return OptimizationOutcome(optimization, {kind.original.name: kind.original, **candidates})


@dataclass
class _Run:
    """State of one optimization."""

    kind: ModelKind[Any]
    request: OptimizationRequest
    workdir: Path
    progress: ProgressReporter
    gate: Gate = field(init=False)
    methods: tuple[CandidateSpec, ...] = field(init=False)
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        checked_objective(self.request.objective)
        self.gate = Gate.parse(self.request.gate)
        self.methods = selected_methods(self.request.candidates, self.kind.methods())
        self.ledger = Ledger(self.workdir, _fingerprint(self.kind, self.request))
        count = len(self.methods)
        self.progress.total = count + (count + 1) * (self.request.runs + 2)

    def make_all(self) -> dict[str, Candidate]:
        """All candidates that could be made, by name."""
        finished: dict[str, Candidate] = {}
        for method in self.methods:
            self.progress.raise_if_cancelled()
            candidate = self.ledger.candidate(method.name)
            if candidate is None and self.ledger.skipped(method.name) is None:
                self.progress.update(f"making {method.name}")
                candidate = self._make(method, finished)
            if candidate is not None:
                finished[method.name] = candidate
            self.progress.done += 1
        return finished

    def _make(self, method: CandidateSpec, finished: Mapping[str, Candidate]) -> Candidate | None:
        """The new candidate; None if it could not be made, with the reason in the ledger."""
        try:
            with self.ledger.stage() as path:
                folder = CandidateFolder(
                    path,
                    finished,
                    progress=lambda text: self.progress.update(f"making {method.name}: {text}"),
                    cancelled=self.progress.cancelled,
                )
                return self.ledger.finish(self._call_method(method, folder))
        except (OutOfSpace, BuildCancelled):
            raise
        except NotApplicable as error:
            self.ledger.save_skipped(method.name, error.message)
        except MaasError as error:
            self.ledger.save_skipped(method.name, f"it could not be made: {error.message}")
        return None

    def _call_method(self, method: CandidateSpec, folder: CandidateFolder) -> Candidate:
        """Result of the method, with unexpected errors of libraries as InferenceFailed."""
        try:
            return self.kind.make(method, folder)
        except (MaasError, OSError):
            raise
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            raise InferenceFailed(f"{type(error).__name__}: {text}") from error

    def judge_all(self, candidates: Mapping[str, Candidate]) -> tuple[CandidateResult, ...]:
        """Results of the original first, then of all candidates in the order of the methods."""
        original = self.kind.original
        failures = self._run_steps((original, *candidates.values()))
        results = [self._result(original, failures)]
        for method in self.methods:
            candidate = candidates.get(method.name)
            if candidate is None:
                reason = self.ledger.skipped(method.name) or "it could not be made"
                how = {"description": method.description, "skipped": reason}
                result = CandidateResult(method.name, original.runtime, how, failure=reason)
            else:
                result = self._result(candidate, failures)
            results.append(result)
        if not self.request.candidates:
            for name, reason in self.kind.skipped().items():
                how = {"skipped": reason}
                results.append(CandidateResult(name, "", how, failure=reason))
        return tuple(results)

    def _run_steps(self, candidates: Sequence[Candidate]) -> dict[str, str]:
        """Compares, measures and judges all candidates, and stores the results in the ledger.

        Returns the reason for each candidate that failed; its failure does not affect the others.
        Each step covers all candidates before the next step begins, so that the paired runs of all
        candidates are interleaved and changes of the machine within minutes affect all of them, and
        show in their intervals.
        """
        failures: dict[str, str] = {}
        pending = [c for c in candidates if self.ledger.result(c.name) is None]
        runs = [partial(self._measure, number) for number in range(self.request.runs)]
        steps: list[Callable[[Candidate], None]] = [self._compare, *runs, self._judge]
        self.progress.total = self.progress.done + len(pending) * len(steps)
        for step in steps:
            for candidate in pending:
                self.progress.raise_if_cancelled()
                if candidate.name not in failures:
                    try:
                        step(candidate)
                    except (OutOfSpace, BuildCancelled):
                        raise
                    except MaasError as error:
                        if candidate is self.kind.original:
                            raise
                        failures[candidate.name] = error.message
                self.progress.done += 1
        return failures

    def _compare(self, candidate: Candidate) -> None:
        if self.ledger.comparison(candidate.name) is None:
            self.progress.update(f"comparing {candidate.name}")
            self.ledger.save_comparison(self.kind.compare(candidate))

    def _measure(self, number: int, candidate: Candidate) -> None:
        name, count = candidate.name, self.request.runs
        if self.ledger.run(name, number) is None:
            self.progress.update(f"measuring {name}, run {number + 1} of {count}")
            self.ledger.save_run(name, number, self.kind.measure_pair(candidate, number))

    def _judge(self, candidate: Candidate) -> None:
        name = candidate.name
        comparison = self.ledger.comparison(name)
        stored_runs = [self.ledger.run(name, number) for number in range(self.request.runs)]
        runs = [run for run in stored_runs if run is not None]
        if comparison is None or len(runs) < self.request.runs:
            raise MaasError(f"the measurements of {name} cannot be read from the work folder")
        measurement = self.kind.measurement(candidate, runs)
        result = CandidateResult(
            name=name,
            runtime=candidate.runtime,
            how=dict(candidate.how),
            threads=candidate.threads,
            batch=candidate.batch,
            measurement=measurement,
            comparison=comparison,
            verdict=judge(self.gate, comparison, measurement),
            profile=self.kind.profile(candidate, measurement),
        )
        self.ledger.save_result(result)

    def _result(self, candidate: Candidate, failures: Mapping[str, str]) -> CandidateResult:
        result = self.ledger.result(candidate.name)
        if result is not None:
            return result
        reason = failures.get(candidate.name, "it has no result")
        failure = f"it could not be measured: {reason}"
        how = dict(candidate.how)
        return CandidateResult(candidate.name, candidate.runtime, how, failure=failure)


def selected_methods(
    names: tuple[str, ...], methods: tuple[CandidateSpec, ...]
) -> tuple[CandidateSpec, ...]:
    """Methods of these candidates and of those that they start from; all if `names` is empty.

    Raises InvalidInput if a name is unknown.
    """
    by_name = {method.name: method for method in methods}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise InvalidInput(
            f"candidates must be among {', '.join(by_name)}; got {unknown[0]!r}",
            field="candidates",
        )
    if not names:
        return methods
    selected = {*names, *(by_name[name].base for name in names)}
    return tuple(method for method in methods if method.name in selected)


def _fingerprint(kind: ModelKind[Any], request: OptimizationRequest) -> str:
    """Digest of everything that candidates and figures depend on."""
    inputs = {
        "original": [sha256_of(path) for path in kind.original.files.values()],
        "gate": request.gate,
        "seed": request.seed,
        "seconds": request.seconds,
        "runs": request.runs,
        "libraries": kind.libraries(),
        **kind.fingerprint_inputs(),
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _how(kind: ModelKind[Any], request: OptimizationRequest) -> dict[str, Any]:
    return {
        **kind.how,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "libraries": kind.libraries(),
        "seed": request.seed,
        "seconds": request.seconds,
        "runs": request.runs,
    }
