"""Which engine and how many threads serve a model best here: what is tried, what that came to, and
which is kept. Nothing here runs anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.models import Evidence, Task, Variant, Version
from maas.lifecycle.load.load_results import ROW_CONCURRENCY, TEXT_CONCURRENCY, LevelResult, Load

OBJECTIVES = ("latency", "throughput")
KIND = "latency"
"""Of the evidence."""
FEWEST = 1
SAME_FILES = {
    "llama_cpp": ("llama_cpp", "openvino"),
    "openvino": ("openvino", "llama_cpp"),
}
"""Engines that load the very files that another one loads. Others have only themselves."""


@dataclass(frozen=True)
class EngineCandidate:
    """An engine with a number of threads."""

    variant: Variant
    threads: int
    library: str
    """What its runtime loads models with, as `xllamacpp 1.2`."""
    is_new: bool = False
    """Whether the version lacks this variant yet."""

    @property
    def label(self) -> str:
        return f"{self.variant.name}, threads {self.threads}"


@dataclass(frozen=True)
class EngineTrial:
    """What a candidate came to."""

    candidate: EngineCandidate
    levels: tuple[LevelResult, ...] = ()
    failed: str = ""
    """Why it does not serve."""
    is_known: bool = False
    """Whether it was measured earlier."""


def check_objective(objective: str) -> str:
    """Raises InvalidInput."""
    if objective not in OBJECTIVES:
        raise InvalidInput(
            f"objective must be {' or '.join(OBJECTIVES)}; got {objective!r}", field="objective"
        )
    return objective


def usual_load(task: Task, seconds: float = 10.0, seed: int = 0) -> Load:
    """One caller, and as many as keep an engine busy: what both objectives need."""
    usual = TEXT_CONCURRENCY if task is Task.TEXT_GENERATION else ROW_CONCURRENCY
    return Load(concurrency=(FEWEST, usual[-1]), seconds=seconds, seed=seed)


def candidates(
    version: Version, base: Variant, libraries: Mapping[str, str | None], threads: tuple[int, ...]
) -> list[EngineCandidate]:
    """Every engine whose library the server has and that loads the files of `base`, each with each
    of `threads`. `libraries` are by runtime."""
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
    """Worth trying. Of text half of the cores and all: memory limits it, and more threads than
    memory feeds are slower. Of rows one and all: a small model is done before threads have met."""
    few = max(1, cores // 2) if task is Task.TEXT_GENERATION else 1
    return tuple(sorted({few, max(1, cores)}))


def evidence_of(trial: EngineTrial, load: Load, how: Mapping[str, Any]) -> Evidence:
    """What stays with the variant, with all that `known` asks for."""
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
    """The newest measurement of this candidate under this load on a machine like this, with this
    version of its library; None if there is none. A failure is no measurement: it may pass."""
    load_fields = _plain(load.to_dict())
    matches = [
        item
        for item in evidence
        if item.kind == KIND
        and item.values.get("levels")
        and item.variant == candidate.variant.name
        and item.values.get("threads") == candidate.threads
        and item.how.get("library") == candidate.library
        and item.how.get("machine") == dict(machine)
        and _plain(item.how.get("load")) == load_fields
    ]
    if not matches:
        return None
    newest = max(matches, key=lambda item: item.created_at)
    levels = tuple(LevelResult.from_dict(level) for level in newest.values["levels"])
    return EngineTrial(candidate, levels, is_known=True)


def best(trials: Sequence[EngineTrial], objective: str) -> EngineTrial | None:
    """The one to keep: for latency the shortest median answer at the fewest callers, for
    throughput the most tokens (or requests) per second at the most callers. A candidate of which
    requests failed there is only kept if of all others requests failed, too; None if none serves.
    """
    check_objective(objective)
    scored = [(score(trial, objective), trial) for trial in trials]
    usable = [(value, trial) for value, trial in scored if value is not None]
    if not usable:
        return None
    # Of equals the first: the engine that the model was published for, with fewer threads.
    return max(usable, key=lambda pair: pair[0])[1]


def score(trial: EngineTrial, objective: str) -> tuple[bool, float] | None:
    """Greater is better; None if it does not serve."""
    if trial.failed or not trial.levels:
        return None
    if objective == "latency":
        level = trial.levels[0]
        value = -level.latency_ms.p50 if level.latency_ms is not None else None
    else:
        level = trial.levels[-1]
        value = level.requests_per_s if level.tokens_per_s is None else level.tokens_per_s
    if value is None or not level.requests:
        return None
    return (not level.errors, value)


def _present(version: Version, base: Variant, runtime: str) -> Variant | None:
    """A variant of the version that has the same files for this runtime."""
    digests = [f.sha256 for f in base.files]
    for variant in version.variants:
        if variant.runtime == runtime and [f.sha256 for f in variant.files] == digests:
            return variant
    return None


def _free_name(version: Version, base: Variant, runtime: str) -> str:
    used = {v.name for v in version.variants}
    stem = f"{base.name[:40]}-{runtime}".replace("_", "-")
    names = (stem if n == 1 else f"{stem}-{n}" for n in range(1, len(used) + 2))
    return next(name for name in names if name not in used)


def _plain(load: Any) -> Any:
    """As it is after a way through JSON."""
    if not isinstance(load, Mapping):
        return load
    return {k: list(v) if isinstance(v, tuple) else v for k, v in load.items()}
