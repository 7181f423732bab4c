"""Records of an optimization: candidates, their outputs, measurements, comparisons and verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from maas.domain.errors import InvalidInput
from maas.domain.models import Task

Array = npt.NDArray[Any]
Record = TypeVar("Record")

CONFIDENCE = 0.95
"""Confidence of every interval (two-sided) and of every bound (one-sided)."""


@dataclass(frozen=True)
class Candidate:
    """A servable form of the model under optimization. The original is a candidate, too."""

    name: str
    """Name of the variant that the candidate may become."""
    runtime: str
    files: Mapping[str, Path]
    """Local path of each file, by the file's name in the variant."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the runtime; JSON values."""
    how: Mapping[str, Any] = field(default_factory=dict)
    """Library, its version, method and settings, enough to make it again; JSON values."""
    threads: int = 1
    """Threads that the runtime may use, during measurement and when serving."""
    batch: int = 32
    """Largest number of rows per call when serving."""


@dataclass(frozen=True)
class EvaluationRows:
    """Rows on which all candidates are compared. No candidate was made with them."""

    inputs: Mapping[str, Array]
    """Array [n, …] for each input of the signature; BYTES as object arrays of bytes."""
    y: Array | None
    """[n] class indices, or [n] or [n, targets] numbers; None: compare with the original only."""
    task: Task
    class_names: tuple[str, ...] = ()
    slices: Mapping[str, Array] = field(default_factory=dict)
    """Labels [n] of str for each slice."""
    digest: str = ""
    """SHA-256 of the rows, which shows whether two comparisons used the same ones."""

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True)
class CandidateOutputs:
    """Outputs of a candidate for n rows."""

    task: Task
    predicted: Array
    """[n] class indices, [n, targets] numbers, or one answer of another type per row."""
    scores: npt.NDArray[np.float64] | None = None
    """[n, classes], if the candidate returns scores."""
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """A measured value with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Speed:
    """Speed of calls of one batch size, interleaved with those of the original.

    A ratio is candidate over original: latency below 1 and throughput above 1 are better.
    """

    batch: int
    """Rows per call."""
    calls: int
    p50_ms: Estimate
    p99_ms: Estimate | None
    """None, as is its ratio, if a run had too few calls for a 99th percentile."""
    rows_per_s: Estimate
    p50_ratio: Estimate
    p99_ratio: Estimate | None
    rows_per_s_ratio: Estimate
    first_ms: Estimate | None = None
    """Median time to the first token; language models only."""
    first_ratio: Estimate | None = None


@dataclass(frozen=True)
class Measurement:
    """Speed, size, memory and energy of a candidate on this machine."""

    candidate: str
    speeds: tuple[Speed, ...]
    """Smallest batch first."""
    file_bytes: int
    file_ratio: float
    """Candidate over original."""
    resident_bytes: int
    """Resident memory of a new process that has loaded the candidate and answered the largest
    batch."""
    resident_ratio: float
    core_seconds_per_1000: Estimate
    """CPU seconds for 1,000 rows at the largest batch size."""
    joules_per_1000: float | None
    """Energy of the whole processor package for 1,000 rows at the largest batch size."""
    energy_note: str
    """Source of the energy figure, or the reason why there is none."""
    notes: tuple[str, ...] = ()
    """Disturbances during the measurement."""
    how: dict[str, Any] = field(default_factory=dict)
    unit: str = "row"
    """row | token: the unit of rates and of figures per 1,000. If it is token, `batch` is the
    number of concurrent answers, and p50 and p99 are durations of complete answers."""

    def at(self, batch: int) -> Speed:
        """Speed at one batch size. Raises InvalidInput if it was not measured."""
        for speed in self.speeds:
            if speed.batch == batch:
                return speed
        measured = ", ".join(str(s.batch) for s in self.speeds)
        raise InvalidInput(f"batch must be one of {measured}; got {batch}", field="batch")


@dataclass(frozen=True)
class Difference:
    """One metric of candidate and original on the same rows."""

    metric: str
    original: float | None
    candidate: float | None
    value: float
    """Candidate minus original."""
    low: float
    high: float
    """With `low`, the 95 % interval of `value`."""
    bound: float
    """One-sided 95 % bound of `value`: a lower bound where higher is better, else an upper one."""
    level: float
    """The same bound for the candidate's own value."""
    relative: float | None
    """The same bound for the difference divided by the original's value."""
    rows: int
    method: str
    lower_is_better: bool = False
    lost: int | None = None
    """Shares only: rows on which only the original is right."""
    gained: int | None = None
    """Shares only: rows on which only the candidate is right."""


@dataclass(frozen=True)
class RowGroup:
    """Differences on the rows of one class, or of one group of a slice."""

    grouping: str
    """class | slice"""
    name: str
    """The class's name, or `slice=value`."""
    rows: int
    differences: tuple[Difference, ...]
    """Class: recall (agreement without labels), specificity, precision, f1. Slice: accuracy, or
    mae, rmse and r2. The guard of a gate tests the first one."""

    def difference(self, metric: str) -> Difference | None:
        return next((d for d in self.differences if d.metric == metric), None)


@dataclass(frozen=True)
class Comparison:
    """Quality of a candidate against the original, row by row."""

    candidate: str
    rows: int
    differences: tuple[Difference, ...]
    groups: tuple[RowGroup, ...] = ()
    mcnemar: dict[str, Any] | None = None
    """{lost, gained, p}: McNemar's exact test, two-sided."""
    agreement: Difference | None = None
    """Share of rows with the same output; gates use its level."""
    class_names: tuple[str, ...] = ()
    confusion: tuple[tuple[tuple[int, ...], ...], ...] = ()
    """Confusion matrices (original's, candidate's): rows are true classes, columns predicted."""
    how: dict[str, Any] = field(default_factory=dict)

    def difference(self, metric: str) -> Difference | None:
        if metric == "agreement":
            return self.agreement
        return next((d for d in self.differences if d.metric == metric), None)


@dataclass(frozen=True)
class RuleResult:
    """Result of one rule of a gate."""

    rule: str
    passed: bool
    reason: str
    rows_needed: int | None = None
    """Approximate number of rows that would satisfy the rule, at the shares observed so far."""


@dataclass(frozen=True)
class Verdict:
    """Result of a gate for one candidate."""

    candidate: str
    gate: str
    passed: bool
    results: tuple[RuleResult, ...]
    worse_groups: tuple[str, ...] = ()
    """Classes and slices that lost significantly more than the gate allows, worst first."""

    @property
    def reason(self) -> str:
        """Sentences of the rules that failed, or of all rules if none failed."""
        deciding = [r for r in self.results if not r.passed] or self.results
        return "; ".join(r.reason for r in deciding)


@dataclass(frozen=True)
class CandidateResult:
    """Everything an optimization found out about one candidate.

    Fields of steps that the candidate did not reach are None.
    """

    name: str
    runtime: str
    how: dict[str, Any]
    threads: int = 1
    batch: int = 32
    measurement: Measurement | None = None
    comparison: Comparison | None = None
    verdict: Verdict | None = None
    profile: dict[str, Any] | None = None
    failure: str = ""
    """Reason why it could not be made, loaded or measured; empty if it could."""

    @property
    def passed(self) -> bool:
        return self.verdict is not None and self.verdict.passed and not self.failure

    @property
    def reason(self) -> str:
        if self.failure:
            return self.failure
        return self.verdict.reason if self.verdict else "it was not compared"


@dataclass(frozen=True)
class Optimization:
    """All results of an optimization, as its report shows them."""

    model: str
    """MODEL:VERSION"""
    task: Task
    objective: str
    """latency | throughput | size | memory"""
    gate: str
    results: tuple[CandidateResult, ...]
    """The original first, then all candidates in the order of their methods."""
    chosen: str
    """Name of the best candidate, one of `results`."""
    chosen_reason: str
    command: str
    """Command that reproduces every figure."""
    how: dict[str, Any] = field(default_factory=dict)
    """Machine, libraries, data digest, rows, seed."""
    created_at: float = 0.0
    best: dict[str, str] = field(default_factory=dict)
    """Name of the candidate that each objective would choose."""

    @property
    def original(self) -> CandidateResult:
        return self.results[0]


def to_json(record: Any) -> dict[str, Any]:
    """JSON values of a record of this module that has no arrays or paths."""
    values: dict[str, Any] = msgspec.to_builtins(record)
    return values


def from_json(values: Mapping[str, Any], record_type: type[Record]) -> Record:
    """The record that `to_json` converted. Raises InvalidInput that names the invalid field."""
    try:
        return msgspec.convert(dict(values), record_type)
    except msgspec.ValidationError as error:
        name = record_type.__name__.lower()
        raise InvalidInput(f"not a valid {name}: {error}", field="values") from None
