"""Optimization of models that answer rows of tensors."""

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
    candidate_methods,
    skipped,
)
from maas.lifecycle.optimize.judgment.compare import compare
from maas.lifecycle.optimize.measurement.candidate_process import isolated_outputs_of
from maas.lifecycle.optimize.measurement.measure import RESIDENT, MeasurementPlan, measure_pair
from maas.lifecycle.optimize.measurement.outputs import convert_outputs, load_outputs, save_outputs
from maas.lifecycle.optimize.measurement.paired_runs import PairedRun, measurement_of
from maas.lifecycle.optimize.measurement.profile import profile
from maas.lifecycle.optimize.model_kind import CandidateFolder
from maas.lifecycle.optimize.results import Candidate, CandidateOutputs, Comparison, Measurement
from maas.lifecycle.optimize.subject import Subject


@dataclass(frozen=True)
class TensorKind:
    """Models that answer rows of tensors (`ModelKind`)."""

    subject: Subject
    seed: int
    epochs: int
    """Epochs of fine-tuning and distillation; 0: as many as the build had."""
    seconds: float
    """Duration of a turn of the measurement."""

    @property
    def original(self) -> Candidate:
        return self.subject.original

    @property
    def task(self) -> Task:
        return self.subject.rows.task

    @property
    def how(self) -> Mapping[str, Any]:
        return self.subject.how

    def methods(self) -> tuple[CandidateMethod, ...]:
        return candidate_methods()

    def skipped(self) -> dict[str, str]:
        return skipped()

    def make(self, method: CandidateMethod, folder: CandidateFolder) -> Candidate:
        context = CandidateContext(
            subject=self.subject,
            folder=folder.path,
            finished=folder.finished,
            seed=self.seed,
            epochs=self.epochs,
            progress=folder.progress,
            cancelled=folder.cancelled,
        )
        candidate = Candidate(
            name=method.name,
            runtime="onnx",
            files={FILE: context.target},
            how={"description": method.description, **method.make(context)},
            options=dict(method.options),
            threads=method.threads,
        )
        # This also proves that the file answers and was not truncated by a full disk.
        outputs = isolated_outputs_of(candidate, self.subject.signature, self.subject.rows)
        save_outputs(folder.path, outputs)
        return candidate

    def compare(self, candidate: Candidate) -> Comparison:
        outputs = self._outputs_of(candidate)
        rows = self.subject.rows
        return compare(candidate.name, rows, self._original_outputs, outputs, seed=self.seed)

    def measure_pair(self, candidate: Candidate, number: int) -> PairedRun:
        subject = self.subject
        return measure_pair(candidate, self.original, subject.rows, subject.signature, self._plan)

    def measurement(self, candidate: Candidate, runs: Sequence[PairedRun]) -> Measurement:
        how = {
            "rounds": self._plan.rounds,
            "seconds_per_turn": self.seconds,
            "resident": RESIDENT,
        }
        return measurement_of(candidate, self.original, runs, how=how)

    def profile(self, candidate: Candidate, measurement: Measurement) -> dict[str, Any]:
        return profile(candidate, self.subject.rows, measurement).to_dict()

    def fingerprint_inputs(self) -> dict[str, Any]:
        return {"rows": self.subject.rows.digest, "epochs": self.epochs}

    def libraries(self) -> dict[str, str]:
        return library_versions(
            "openmaas", "onnxruntime", "onnx", "torch", "torch-pruning", "numpy"
        )

    @property
    def _plan(self) -> MeasurementPlan:
        return MeasurementPlan(seconds=self.seconds)

    @cached_property
    def _original_outputs(self) -> CandidateOutputs:
        return self._outputs_of(self.original)

    def _outputs_of(self, candidate: Candidate) -> CandidateOutputs:
        rows, signature = self.subject.rows, self.subject.signature
        outputs = None if candidate is self.original else load_outputs(candidate)
        if outputs is None:
            outputs = isolated_outputs_of(candidate, signature, rows)
        return convert_outputs(outputs, signature, rows)
