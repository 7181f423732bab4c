"""Optimize: make candidates, measure and judge each beside the original, choose the best.

Everything that is finished is kept in the work folder, so that a killed run goes on where it was:
a candidate is made once, compared once, judged once, and every run of it is measured once.
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
    """What is wanted of an optimization."""

    model: str
    """MODEL:VERSION"""
    objective: Objective = "throughput"
    gate: str = ""
    candidates: tuple[str, ...] = ()
    """Names to try; empty: all."""
    seconds: float = 0.05
    """Of a turn of the measurement."""
    runs: int = 8
    """Fresh processes of each side that are measured."""
    seed: int = 0
    epochs: int = 0
    """Of fine-tuning and distillation; 0: as many as the build had."""
    command: str = ""
    """That asks for the same."""


@dataclass(frozen=True)
class OptimizationOutcome:
    optimization: Optimization
    candidates: Mapping[str, Candidate]
    """Those that could be made, by name; the original is one."""


@dataclass
class ProgressReporter:
    """Who is told how far it is, and who may stop it."""

    report: Callable[[Progress], None] = lambda progress: None
    cancelled: Callable[[], bool] = lambda: False
    done: int = 0
    total: int = 0

    def say(self, message: str, values: dict[str, float] | None = None) -> None:
        self.report(Progress(self.done, self.total, message, values or {}))

    def check(self) -> None:
        if self.cancelled():
            raise BuildCancelled("cancelled; --resume goes on with what is not finished")


def optimize(
    subject: Subject | TextSubject,
    request: OptimizationRequest,
    workdir: Path,
    watch: ProgressReporter | None = None,
) -> OptimizationOutcome:
    """Tries every maker on `subject`. What is in `workdir` from a former run is not done again.

    Raises InvalidInput for a request that cannot be understood, OutOfSpace if nothing more can
    be written (what is finished stays), BuildCancelled.
    """
    watch = watch or ProgressReporter()
    kind: ModelKind[Any] = (
        TextKind(subject, request.seed, request.seconds)
        if isinstance(subject, TextSubject)
        else TensorKind(subject, request.seed, request.epochs, request.seconds)
    )
    run = _Run(kind, request, workdir, watch)
    made = run.make_all()
    tried = run.judge_all(made)
    chosen, why = choose(request.objective, tried)
    optimization = Optimization(
        model=request.model,
        task=kind.task,
        objective=request.objective,
        gate=run.gate.text,
        results=tried,
        chosen=chosen,
        chosen_reason=why,
        command=request.command,
        how=_how(kind, request),
        created_at=time.time(),
        best={objective: choose(objective, tried)[0] for objective in OBJECTIVES},
    )
    return OptimizationOutcome(optimization, {kind.original.name: kind.original, **made})


@dataclass
class _Run:
    kind: ModelKind[Any]
    request: OptimizationRequest
    workdir: Path
    watch: ProgressReporter
    gate: Gate = field(init=False)
    makers: tuple[CandidateSpec, ...] = field(init=False)
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        checked_objective(self.request.objective)
        self.gate = Gate.parse(self.request.gate)
        self.makers = wanted(self.request.candidates, self.kind.makers())
        self.ledger = Ledger(self.workdir, _fingerprint(self.kind, self.request))
        self.watch.total = len(self.makers) + (len(self.makers) + 1) * (self.request.runs + 2)

    def make_all(self) -> dict[str, Candidate]:
        made: dict[str, Candidate] = {}
        for maker in self.makers:
            self.watch.check()
            candidate = self.ledger.candidate(maker.name)
            if candidate is None and self.ledger.skipped(maker.name) is None:
                self.watch.say(f"making {maker.name}")
                candidate = self._make(maker, made)
            if candidate is not None:
                made[maker.name] = candidate
            self.watch.done += 1
        return made

    def _make(self, maker: CandidateSpec, made: Mapping[str, Candidate]) -> Candidate | None:
        try:
            with self.ledger.stage() as folder:
                place = CandidateFolder(
                    folder,
                    made,
                    report=lambda text: self.watch.say(f"making {maker.name}: {text}"),
                    cancelled=self.watch.cancelled,
                )
                return self.ledger.finish(self._made(maker, place))
        except (OutOfSpace, BuildCancelled):
            raise
        except NotApplicable as wrong:
            self.ledger.skip(maker.name, wrong.message)
        except MaasError as wrong:
            self.ledger.skip(maker.name, f"it could not be made: {wrong.message}")
        return None

    def _made(self, maker: CandidateSpec, place: CandidateFolder) -> Candidate:
        try:
            return self.kind.make(maker, place)
        except (MaasError, OSError):
            raise
        except Exception as wrong:
            text = " ".join(str(wrong).split())[:300]
            raise InferenceFailed(f"{type(wrong).__name__}: {text}") from wrong

    def judge_all(self, made: Mapping[str, Candidate]) -> tuple[CandidateResult, ...]:
        """The original first, then every candidate in the order of the makers."""
        original = self.kind.original
        failed = self._take_turns((original, *made.values()))
        found = [self._tried(original, failed)]
        for maker in self.makers:
            candidate = made.get(maker.name)
            if candidate is None:
                why = self.ledger.skipped(maker.name) or "it could not be made"
                how = {"what": maker.what, "skipped": why}
                found.append(CandidateResult(maker.name, original.runtime, how, failure=why))
            else:
                found.append(self._tried(candidate, failed))
        found += [
            CandidateResult(name, "", {"skipped": why}, failure=why)
            for name, why in self.kind.skipped().items()
            if not self.request.candidates
        ]
        return tuple(found)

    def _take_turns(self, candidates: Sequence[Candidate]) -> dict[str, str]:
        """Compares, measures and judges, all into the ledger; why that was not possible, by name:
        one that crashes takes nobody with it. A run of each comes before the next of any, so
        that what changes on the machine within minutes is seen by all, and by their intervals."""
        failed: dict[str, str] = {}
        unknown = [c for c in candidates if self.ledger.result(c.name) is None]
        runs = [partial(self._sit, number) for number in range(self.request.runs)]
        steps: list[Callable[[Candidate], None]] = [self._compare, *runs, self._judge]
        self.watch.total = self.watch.done + len(unknown) * len(steps)
        for step in steps:
            for candidate in unknown:
                self.watch.check()
                if candidate.name not in failed:
                    try:
                        step(candidate)
                    except (OutOfSpace, BuildCancelled):
                        raise
                    except MaasError as wrong:
                        if candidate is self.kind.original:
                            raise
                        failed[candidate.name] = wrong.message
                self.watch.done += 1
        return failed

    def _compare(self, candidate: Candidate) -> None:
        if self.ledger.comparison(candidate.name) is None:
            self.watch.say(f"comparing {candidate.name}")
            self.ledger.compared(self.kind.compare(candidate))

    def _sit(self, number: int, candidate: Candidate) -> None:
        name, count = candidate.name, self.request.runs
        if self.ledger.run(name, number) is None:
            self.watch.say(f"measuring {name}, run {number + 1} of {count}")
            self.ledger.save_run(name, number, self.kind.sit(candidate, number))

    def _judge(self, candidate: Candidate) -> None:
        name = candidate.name
        comparison = self.ledger.comparison(name)
        runs = [self.ledger.run(name, n) for n in range(self.request.runs)]
        known = [run for run in runs if run is not None]
        if comparison is None or len(known) < len(runs):
            raise MaasError(f"what was measured of {name} is not where it was put")
        measurement = self.kind.measurement(candidate, known)
        tried = CandidateResult(
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
        self.ledger.judged(tried)

    def _tried(self, candidate: Candidate, failed: Mapping[str, str]) -> CandidateResult:
        known = self.ledger.result(candidate.name)
        if known is not None:
            return known
        why = f"it could not be measured: {failed.get(candidate.name, 'nothing is known of it')}"
        return CandidateResult(candidate.name, candidate.runtime, dict(candidate.how), failure=why)


def wanted(names: tuple[str, ...], makers: tuple[CandidateSpec, ...]) -> tuple[CandidateSpec, ...]:
    """The makers of these names and of what they are made of. Raises InvalidInput."""
    known = {maker.name: maker for maker in makers}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InvalidInput(
            f"there is no candidate {unknown[0]!r}; known are {', '.join(known)}",
            field="candidates",
        )
    needed = {*names, *(known[name].of for name in names)} or known.keys()
    return tuple(maker for maker in known.values() if maker.name in needed)


def _fingerprint(kind: ModelKind[Any], request: OptimizationRequest) -> str:
    """Equal where a former run's candidates and figures may be taken over."""
    told = {
        "original": [sha256_of(path) for path in kind.original.files.values()],
        "gate": request.gate,
        "seed": request.seed,
        "seconds": request.seconds,
        "runs": request.runs,
        "libraries": kind.libraries(),
        **kind.told(),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _how(kind: ModelKind[Any], request: OptimizationRequest) -> dict[str, Any]:
    return {
        **kind.how,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "libraries": kind.libraries(),
        "seed": request.seed,
        "seconds": request.seconds,
        "runs": request.runs,
    }
