"""Choice of the engine and the number of threads for a model on this machine.

This module lists candidates, reads and writes their measurements as evidence, and picks the best;
it measures nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.models import Evidence, Task, Variant, Version
from maas.lifecycle.load_test.results import ROW_CONCURRENCY, TEXT_CONCURRENCY, LevelResult, Load

OBJECTIVES = ("latency", "throughput")
KIND = "latency"
"""Kind of the evidence."""
FEWEST = 1
"""Concurrency at which latency is measured."""
SAME_FILES = {
    "llama_cpp": ("llama_cpp", "openvino"),
    "openvino": ("openvino", "llama_cpp"),
}
"""Engines that load the same files, by engine, the engine itself first. Others share no files."""


@dataclass(frozen=True)
class EngineCandidate:
    """An engine with a number of threads."""

    variant: Variant
    threads: int
    library: str
    """Library of the runtime with its version, such as `xllamacpp 1.2`."""
    is_new: bool = False
    """Whether the version does not have this variant yet."""

    @property
    def label(self) -> str:
        return f"{self.variant.name}, threads {self.threads}"


@dataclass(frozen=True)
class EngineTrial:
    """Measurement of a candidate."""

    candidate: EngineCandidate
    levels: tuple[LevelResult, ...] = ()
    failed: str = ""
    """Reason why the candidate does not serve; empty if it does."""
    is_known: bool = False
    """Whether the measurement is an earlier one."""


def check_objective(objective: str) -> str:
    """`objective` if it is valid. Raises InvalidInput."""
    if objective not in OBJECTIVES:
        raise InvalidInput(
            f"objective must be {' or '.join(OBJECTIVES)}; got {objective!r}", field="objective"
        )
    return objective


def usual_load(task: Task, seconds: float = 10.0, seed: int = 0) -> Load:
    """A load with one client and with enough to saturate an engine, for both objectives."""
    usual = TEXT_CONCURRENCY if task is Task.TEXT_GENERATION else ROW_CONCURRENCY
    return Load(concurrency=(FEWEST, usual[-1]), seconds=seconds, seed=seed)


def candidates(
    version: Version, base: Variant, libraries: Mapping[str, str | None], threads: tuple[int, ...]
) -> list[EngineCandidate]:
    """Candidates for each of `threads` and each installed engine that loads the files of `base`.

    `libraries` has the installed library by runtime, or None.
    """
    result = []
    for runtime in SAME_FILES.get(base.runtime, (base.runtime,)):
        library = libraries.get(runtime)
        if library is None:
            continue
        present = base if runtime == base.runtime else _present(version, base, runtime)
        # Engines for the same files take the same options.
        name = _free_name(version, base, runtime)
        variant = present or Variant(name, runtime, base.files, base.options)
        result += [EngineCandidate(variant, count, library, present is None) for count in threads]
    return result


def thread_counts(cores: int, task: Task) -> tuple[int, ...]:
    """Numbers of threads to measure.

    For text generation half of the cores and all, because memory bandwidth limits it and too many
    threads are slower. For rows one and all, because threads do not help a small model.
    """
    few = 1
    if task is Task.TEXT_GENERATION:
        few = max(1, cores // 2)
    return tuple(sorted({few, max(1, cores)}))


def evidence_of(trial: EngineTrial, load: Load, how: Mapping[str, Any]) -> Evidence:
    """The trial as evidence of its variant, with everything that `previous_trial` compares."""
    values: dict[str, Any] = {"threads": trial.candidate.threads}
    if trial.failed:
        values["failed"] = trial.failed
    else:
        values["levels"] = [level.to_dict() for level in trial.levels]
    how_measured = {**how, "library": trial.candidate.library, "load": load.to_dict()}
    return Evidence(KIND, values, how_measured, trial.candidate.variant.name)


def previous_trial(
    evidence: Iterable[Evidence], candidate: EngineCandidate, load: Load, machine: Mapping[str, Any]
) -> EngineTrial | None:
    """The newest measurement of the candidate with the same load, machine and library version.

    None if there is none. Failures do not count, because they may be transient.
    """
    load_fields = _plain(load.to_dict())

    def matches_trial(item: Evidence) -> bool:
        return (
            item.kind == KIND
            and bool(item.values.get("levels"))
            and item.variant == candidate.variant.name
            and item.values.get("threads") == candidate.threads
            and item.how.get("library") == candidate.library
            and item.how.get("machine") == dict(machine)
            and _plain(item.how.get("load")) == load_fields
        )

    matches = list(filter(matches_trial, evidence))
    if not matches:
        return None
    newest = max(matches, key=lambda item: item.created_at)
    levels = tuple(LevelResult.from_dict(level) for level in newest.values["levels"])
    return EngineTrial(candidate, levels, is_known=True)


def best(trials: Sequence[EngineTrial], objective: str) -> EngineTrial | None:
    """The best trial: for latency the lowest median at the lowest concurrency, for throughput the
    most tokens (or requests) per second at the highest.

    A candidate with failed requests loses to every candidate without. None if none serves.
    """
    check_objective(objective)
    best_trial: EngineTrial | None = None
    best_score: tuple[bool, float] | None = None
    for trial in trials:
        value = score(trial, objective)
        # Among equals the first: the engine that the model was published for, with fewer threads.
        if value is not None and (best_score is None or value > best_score):
            best_trial, best_score = trial, value
    return best_trial


def score(trial: EngineTrial, objective: str) -> tuple[bool, float] | None:
    """Score of a trial, greater is better; None if the candidate does not serve."""
    if trial.failed or not trial.levels:
        return None
    value: float | None = None
    if objective == "latency":
        level = trial.levels[0]
        if level.latency_ms is not None:
            value = -level.latency_ms.p50
    else:
        level = trial.levels[-1]
        value = level.tokens_per_s
        if value is None:
            value = level.requests_per_s
    if value is None or not level.requests:
        return None
    return (not level.errors, value)


def _present(version: Version, base: Variant, runtime: str) -> Variant | None:
    """A variant of the version with the same files for this runtime, if there is one."""
    digests = [f.sha256 for f in base.files]
    for variant in version.variants:
        if variant.runtime == runtime and [f.sha256 for f in variant.files] == digests:
            return variant
    return None


def _free_name(version: Version, base: Variant, runtime: str) -> str:
    used = {v.name for v in version.variants}
    stem = f"{base.name[:40]}-{runtime}".replace("_", "-")
    name, number = stem, 1
    while name in used:
        number += 1
        name = f"{stem}-{number}"
    return name


def _plain(load: Any) -> Any:
    """`load` as JSON represents it: tuples become lists."""
    if not isinstance(load, Mapping):
        return load
    return {k: list(v) if isinstance(v, tuple) else v for k, v in load.items()}
