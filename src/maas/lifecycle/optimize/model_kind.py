"""Interface of a kind of model that can be optimized. `optimize.py` does everything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from maas.domain.models import Task
from maas.lifecycle.optimize.measurement.paired_runs import PairedRun
from maas.lifecycle.optimize.results import Candidate, Comparison, Measurement


class CandidateSpec(Protocol):
    """A method that makes one candidate."""

    @property
    def name(self) -> str: ...
    @property
    def base(self) -> str:
        """Name of the candidate that it starts from; empty: the original."""

    @property
    def description(self) -> str:
        """One line for readers of the report."""


M = TypeVar("M", bound=CandidateSpec, contravariant=True)


@dataclass(frozen=True)
class CandidateFolder:
    """An empty folder for a candidate, with what a method needs besides the model."""

    path: Path
    """Its contents become the candidate's files."""
    finished: Mapping[str, Candidate]
    """Candidates made so far, by name."""
    progress: Callable[[str], None] = lambda message: None
    cancelled: Callable[[], bool] = lambda: False


class ModelKind(Protocol[M]):
    """A kind of model: models that answer rows of tensors, or models that generate text."""

    @property
    def original(self) -> Candidate: ...
    @property
    def task(self) -> Task: ...
    @property
    def how(self) -> Mapping[str, Any]:
        """Origin of the data that candidates are judged on."""

    def methods(self) -> tuple[Any, ...]:
        """All methods in the order in which they are tried, simpler ones first."""

    def skipped(self) -> dict[str, str]:
        """Methods that are tried on no model of this kind, with the reasons."""

    def make(self, method: M, folder: CandidateFolder) -> Candidate:
        """A candidate that has answered once. Raises NotApplicable, or another MaasError."""

    def compare(self, candidate: Candidate) -> Comparison:
        """Outputs of the candidate against those of the original. It may be the original."""

    def measure_pair(self, candidate: Candidate, number: int) -> PairedRun:
        """Paired run `number`, from 0, of the candidate and the original."""

    def measurement(self, candidate: Candidate, runs: Sequence[PairedRun]) -> Measurement:
        """Measurement from all paired runs of a candidate."""

    def profile(self, candidate: Candidate, measurement: Measurement) -> dict[str, Any]:
        """Profile of a candidate; JSON values."""

    def fingerprint_inputs(self) -> dict[str, Any]:
        """Everything that candidates and figures depend on, except the request; JSON values."""

    def libraries(self) -> dict[str, str]:
        """Versions of the libraries that make and run candidates."""
