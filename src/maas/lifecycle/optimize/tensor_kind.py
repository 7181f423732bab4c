"""Models that answer rows of tensors as a kind that can be optimized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from maas.domain.machine import library_versions
from maas.domain.models import Task
from maas.lifecycle.optimize.candidates.methods import (
    FILE,
    CandidateContext,
    CandidateMethod,
    all_makers,
    skipped,
)
from maas.lifecycle.optimize.judgment.compare import compare
from maas.lifecycle.optimize.measurement.candidate_process import answers_of
from maas.lifecycle.optimize.measurement.measure import RESIDENT, MeasurementPlan, sit
from maas.lifecycle.optimize.measurement.outputs import keep, kept, read_answers
from maas.lifecycle.optimize.measurement.paired_runs import PairedRun, measurement_of
from maas.lifecycle.optimize.measurement.profile import profile
from maas.lifecycle.optimize.model_kind import CandidateFolder
from maas.lifecycle.optimize.results import Candidate, CandidateOutputs, Comparison, Measurement
from maas.lifecycle.optimize.subject import Subject


@dataclass(frozen=True)
class TensorKind:
    """Models that answer rows of tensors."""

    subject: Subject
    seed: int
    epochs: int
    """Of fine-tuning and distillation; 0: as many as the build had."""
    seconds: float
    """Of a turn of the measurement."""

    @property
    def original(self) -> Candidate:
        return self.subject.original

    @property
    def task(self) -> Task:
        return self.subject.rows.task

    @property
    def how(self) -> Mapping[str, Any]:
        return self.subject.how

    def makers(self) -> tuple[CandidateMethod, ...]:
        return all_makers()

    def skipped(self) -> dict[str, str]:
        return skipped()

    def make(self, maker: CandidateMethod, place: CandidateFolder) -> Candidate:
        work = CandidateContext(
            subject=self.subject,
            folder=place.folder,
            made=place.made,
            seed=self.seed,
            epochs=self.epochs,
            report=place.report,
            cancelled=place.cancelled,
        )
        candidate = Candidate(
            name=maker.name,
            runtime="onnx",
            files={FILE: work.target},
            how={"what": maker.what, **maker.make(work)},
            options=dict(maker.options),
            threads=maker.threads,
        )
        # A file that does not answer, or was cut off by a full disk, is no candidate.
        keep(place.folder, answers_of(candidate, self.subject.signature, self.subject.rows))
        return candidate

    def compare(self, candidate: Candidate) -> Comparison:
        rows = self.subject.rows
        return compare(
            candidate.name,
            rows,
            self._truth,
            self._answers(candidate),
            seed=self.seed,
        )

    def sit(self, candidate: Candidate, number: int) -> PairedRun:
        subject = self.subject
        return sit(candidate, self.original, subject.rows, subject.signature, self._plan)

    def measurement(self, candidate: Candidate, runs: Sequence[PairedRun]) -> Measurement:
        how = {
            "rounds": self._plan.rounds,
            "seconds_per_turn": self.seconds,
            "resident": RESIDENT,
        }
        return measurement_of(candidate, self.original, runs, how=how)

    def profile(self, candidate: Candidate, measurement: Measurement) -> dict[str, Any]:
        return profile(candidate, self.subject.rows, measurement).to_dict()

    def told(self) -> dict[str, Any]:
        return {"rows": self.subject.rows.digest, "epochs": self.epochs}

    def libraries(self) -> dict[str, str]:
        return library_versions(
            "openmaas", "onnxruntime", "onnx", "torch", "torch-pruning", "numpy"
        )

    @property
    def _plan(self) -> MeasurementPlan:
        return MeasurementPlan(seconds=self.seconds)

    @cached_property
    def _truth(self) -> CandidateOutputs:
        return self._answers(self.subject.original)

    def _answers(self, candidate: Candidate) -> CandidateOutputs:
        rows = self.subject.rows
        outputs = None if candidate is self.original else kept(candidate)
        if outputs is None:
            outputs = answers_of(candidate, self.subject.signature, rows)
        return read_answers(outputs, self.subject.signature, rows)
