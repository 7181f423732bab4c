"""The words of an optimization: what is tried, what was measured, and what was decided."""

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
Word = TypeVar("Word")

CONFIDENCE = 0.95
"""Of every interval (both sides) and of every bound (one side)."""


@dataclass(frozen=True)
class Candidate:
    """One servable form that is tried; the original is one, too."""

    name: str
    """That of the variant it may become."""
    runtime: str
    files: Mapping[str, Path]
    """By the file's name in the variant, where it is on this machine."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the runtime; JSON values."""
    how: Mapping[str, Any] = field(default_factory=dict)
    """Library, its version, method, settings: what is needed to make it again; JSON values."""
    threads: int = 1
    """That the runtime may use, here and when it serves."""
    batch: int = 32
    """Most rows of one call when it serves."""


@dataclass(frozen=True)
class EvaluationRows:
    """Rows that no candidate was made with, on which all are compared."""

    inputs: Mapping[str, Array]
    """By input of the signature: [n, …]; BYTES as object arrays of bytes."""
    y: Array | None
    """[n] class index, or [n] or [n, targets] numbers; None: compare with the original only."""
    task: Task
    class_names: tuple[str, ...] = ()
    slices: Mapping[str, Array] = field(default_factory=dict)
    """By slice name: [n] of str."""
    digest: str = ""
    """SHA-256 of the rows, so that a reader can tell whether they are the same."""

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True)
class CandidateOutputs:
    """What a candidate says about n rows."""

    task: Task
    predicted: Array
    """[n] class index, [n, targets] numbers, or what a row's answer is otherwise"""
    scores: npt.NDArray[np.float64] | None = None
    """[n, classes], if the candidate gives any"""
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """A measured value between bounds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Speed:
    """Calls of one batch size, the candidate's in turns with the original's.

    A ratio is candidate over original: latency below 1 and throughput above 1 are better.
    """

    batch: int
    """Rows of a call."""
    calls: int
    p50_ms: Estimate
    p99_ms: Estimate | None
    """None, with its ratio, if a sitting had too few calls to tell."""
    rows_per_s: Estimate
    p50_ratio: Estimate
    p99_ratio: Estimate | None
    rows_per_s_ratio: Estimate
    first_ms: Estimate | None = None
    """Of text: until an answer's first token is there, the median."""
    first_ratio: Estimate | None = None


@dataclass(frozen=True)
class Measurement:
    """What a candidate costs on this machine."""

    candidate: str
    speeds: tuple[Speed, ...]
    file_bytes: int
    file_ratio: float
    """Candidate over original."""
    resident_bytes: int
    """Of a fresh process that has loaded the candidate and answered the largest batch."""
    resident_ratio: float
    core_seconds_per_1000: Estimate
    """Processor seconds for 1,000 rows at the largest batch size."""
    joules_per_1000: float | None
    """Of the whole package, for 1,000 rows at the largest batch size."""
    joules_why: str
    """How the energy was read, or why it was not."""
    notes: tuple[str, ...] = ()
    """What disturbed the measuring."""
    how: dict[str, Any] = field(default_factory=dict)
    unit: str = "row"
    """row | token: what is counted per second and in 1,000. Of tokens, `batch` is how many answers
    are written at once, and p50 and p99 are times of whole answers."""

    def at(self, batch: int) -> Speed:
        """The calls of this batch size; raises InvalidInput if there were none."""
        for speed in self.speeds:
            if speed.batch == batch:
                return speed
        known = ", ".join(str(s.batch) for s in self.speeds)
        raise InvalidInput(f"batch must be one of {known}; got {batch}", field="batch")


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
    """95 % interval of `value`."""
    bound: float
    """With 95 % confidence the difference is not worse than this: a lower bound where higher is
    better, else an upper bound."""
    level: float
    """The same bound for the candidate's own value."""
    relative: float | None
    """The same bound for the difference divided by the original's value."""
    rows: int
    method: str
    lower_is_better: bool = False
    lost: int | None = None
    """Of a share: rows that only the original has right."""
    gained: int | None = None
    """Of a share: rows that only the candidate has right."""


@dataclass(frozen=True)
class RowGroup:
    """The rows of one class, or of one group of a slice."""

    kind: str
    """class | slice"""
    name: str
    """Of the class, or `slice=value`."""
    rows: int
    differences: tuple[Difference, ...]
    """Class: recall (without labels agreement), specificity, precision, f1. Slice: accuracy, or
    mae, rmse and r2. The first one is what the group itself may lose."""

    def difference(self, metric: str) -> Difference | None:
        return next((d for d in self.differences if d.metric == metric), None)


@dataclass(frozen=True)
class Comparison:
    """Candidate and original, row by row."""

    candidate: str
    rows: int
    differences: tuple[Difference, ...]
    groups: tuple[RowGroup, ...] = ()
    mcnemar: dict[str, Any] | None = None
    """{lost, gained, p}: McNemar's exact test, two-sided."""
    agreement: Difference | None = None
    """Share of rows on which both say the same; its level is what counts."""
    class_names: tuple[str, ...] = ()
    confusion: tuple[tuple[tuple[int, ...], ...], ...] = ()
    """(original's, candidate's): rows are true classes, columns predicted ones."""
    how: dict[str, Any] = field(default_factory=dict)

    def difference(self, metric: str) -> Difference | None:
        if metric == "agreement":
            return self.agreement
        return next((d for d in self.differences if d.metric == metric), None)


@dataclass(frozen=True)
class RuleResult:
    """One rule of a gate, and whether it holds."""

    rule: str
    held: bool
    why: str
    rows_needed: int | None = None
    """About how many rows would show it, if it goes on as in those that were looked at."""


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate passes the gate, and why."""

    candidate: str
    gate: str
    passed: bool
    results: tuple[RuleResult, ...]
    worse_groups: tuple[str, ...] = ()
    """Classes and slices that lost significantly more than the gate allows, worst first."""

    @property
    def why(self) -> str:
        """One sentence per rule that decided: those that failed, or all if all hold."""
        told = [r for r in self.results if not r.held] or self.results
        return "; ".join(r.why for r in told)


@dataclass(frozen=True)
class CandidateResult:
    """A candidate with all that is known about it; what is missing was not reached."""

    name: str
    runtime: str
    how: dict[str, Any]
    threads: int = 1
    batch: int = 32
    measurement: Measurement | None = None
    comparison: Comparison | None = None
    verdict: Verdict | None = None
    profile: dict[str, Any] | None = None
    failed: str = ""
    """Why it could not be made, loaded or measured."""

    @property
    def passed(self) -> bool:
        return self.verdict is not None and self.verdict.passed and not self.failed

    @property
    def why(self) -> str:
        if self.failed:
            return self.failed
        return self.verdict.why if self.verdict else "it was not compared"


@dataclass(frozen=True)
class Optimization:
    """Everything that an optimization found, as its report shows it."""

    model: str
    """MODEL:VERSION"""
    task: Task
    objective: str
    """latency | throughput | size | memory"""
    gate: str
    tried: tuple[CandidateResult, ...]
    """The original first, then in the order in which they were tried."""
    chosen: str
    """The name of one of `tried`."""
    chosen_why: str
    command: str
    """That gives every figure again."""
    how: dict[str, Any] = field(default_factory=dict)
    """Machine, libraries, data digest, rows, seed."""
    created_at: float = 0.0
    best: dict[str, str] = field(default_factory=dict)
    """By objective: the name of the one that would be chosen for it."""

    @property
    def original(self) -> CandidateResult:
        return self.tried[0]


def to_json(word: Any) -> dict[str, Any]:
    """Any of these words without arrays and paths, as JSON values."""
    found: dict[str, Any] = msgspec.to_builtins(word)
    return found


def from_json(raw: Mapping[str, Any], kind: type[Word]) -> Word:
    """What `to_json` was given. Raises InvalidInput that names the field that is wrong."""
    try:
        return msgspec.convert(dict(raw), kind)
    except msgspec.ValidationError as wrong:
        raise InvalidInput(f"no {kind.__name__.lower()}: {wrong}", field="values") from None
