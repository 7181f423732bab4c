"""What an optimization must be able to do with a kind of model; the engine does the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from maas.domain.models import Task
from maas.lifecycle.optimize.measurement.paired_runs import PairedRun
from maas.lifecycle.optimize.results import Candidate, Comparison, Measurement


class CandidateSpec(Protocol):
    """What makes one candidate, of the original or `of` another candidate."""

    @property
    def name(self) -> str: ...
    @property
    def of(self) -> str: ...
    @property
    def what(self) -> str:
        """In a line, for who reads the report."""


M = TypeVar("M", bound=CandidateSpec, contravariant=True)


@dataclass(frozen=True)
class CandidateFolder:
    """Where a candidate is made."""

    folder: Path
    """Empty; what is in it afterwards is the candidate."""
    made: Mapping[str, Candidate]
    """Those that are finished, by name."""
    report: Callable[[str], None] = lambda message: None
    cancelled: Callable[[], bool] = lambda: False


class ModelKind(Protocol[M]):
    """Models that answer rows of tensors are one kind, those that write text another."""

    @property
    def original(self) -> Candidate: ...
    @property
    def task(self) -> Task: ...
    @property
    def how(self) -> Mapping[str, Any]:
        """Where that comes from on which candidates are judged."""

    def makers(self) -> tuple[Any, ...]:
        """In the order in which they are tried, simpler candidates first."""

    def skipped(self) -> dict[str, str]:
        """What is not tried on any model of this kind, and why."""

    def make(self, maker: M, place: CandidateFolder) -> Candidate:
        """A candidate that has answered. Raises NotApplicable, or another MaasError."""

    def compare(self, candidate: Candidate) -> Comparison:
        """What it says beside what the original says; may be the original itself."""

    def sit(self, candidate: Candidate, number: int) -> PairedRun:
        """What it costs, in turns with the original: run `number`, from 0."""

    def measurement(self, candidate: Candidate, runs: Sequence[PairedRun]) -> Measurement:
        """All its runs together."""

    def profile(self, candidate: Candidate, measurement: Measurement) -> dict[str, Any]:
        """What it consists of."""

    def told(self) -> dict[str, Any]:
        """Whatever its candidates and figures depend on, besides the request; JSON values."""

    def libraries(self) -> dict[str, str]: ...
