"""Who used what, and how it went: usage per key for the ledger, and metrics per deployment.

Both are counters in memory-mapped files, so counting costs no system call, a crash loses nothing,
and any gateway worker can show the metrics of all.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from maas.domain.errors import MaasError
from maas.domain.keys import Key
from maas.serving.routing.live_target import LiveTarget
from maas.serving.usage.counter_file import CounterFile, read_counters
from maas.serving.usage.usage_file import (
    COMPLETION_TOKENS,
    COMPUTE_US,
    ERRORS,
    PROMPT_TOKENS,
    REQUESTS,
    ROWS,
    UsageFile,
)
from maas.serving.wire.messages import Answers

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the latency histogram's buckets, seconds; a last bucket holds the rest."""
COUNT, LATENCY_US, QUEUE_US, MODEL_US, BATCHES, BATCH_ROWS, FIRST_BUCKET = range(7)
"""COUNT is of failures; answers are counted by their buckets."""
WIDTH = FIRST_BUCKET + len(BOUNDS) + 1

FIRST_BOUNDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0,
                7.5, 10.0)  # fmt: skip
PER_TOKEN_BOUNDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
"""Of the time to the first token and per further token, in seconds: the buckets of OpenTelemetry's
conventions for generative models."""
PROMPT, COMPLETION, CACHED, FIRST_US, PER_TOKEN_US, FIRST_FIRST_BUCKET = range(6)
FIRST_PER_TOKEN_BUCKET = FIRST_FIRST_BUCKET + len(FIRST_BOUNDS) + 1
GENERATION_WIDTH = FIRST_PER_TOKEN_BUCKET + len(PER_TOKEN_BOUNDS) + 1
GENERATIONS = "generations"
"""The end of the names of files with these counters."""


@dataclass
class GenerationUsage:
    """What one request for text took, as the engine counted, and how long its parts."""

    choices: int
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    compute_us: int = 0
    """Share of the engine's time, microseconds."""
    first: list[float] = field(default_factory=list)
    """Of each choice that wrote anything, seconds from the request's head to its first token."""
    per_token: list[float] = field(default_factory=list)
    """Of each choice with more than one token, mean seconds per further token."""


class Meter:
    def __init__(self, usage_dir: Path, run_dir: Path, source: str) -> None:
        """`source` names this incarnation of this gateway and is never used again."""
        self._usage = UsageFile(usage_dir, source)
        for ending in ("metrics", GENERATIONS):
            for old in run_dir.glob(f"*.{ending}"):
                _drop_if_dead(old)
        self._metrics = CounterFile(run_dir / f"{source}.metrics", source, WIDTH)
        self._generations = CounterFile(
            run_dir / f"{source}.{GENERATIONS}", source, GENERATION_WIDTH
        )
        self._run_dir = run_dir

    def answered(
        self,
        key: Key,
        operation: str,
        target: LiveTarget,
        rows: int,
        received: float,
        answers: Answers,
    ) -> None:
        """Count one of `answers`, just before it leaves; what concerns its batch, once."""
        # Most answers of a frame are counted in the same places.
        tally = answers.tally
        if tally is not None and tally[0] is key and tally[1] is target and tally[2] is operation:
            usage, slot = tally[3], tally[4]
        else:
            usage = self._usage.slot(key.id, target.deployment, operation)
            slot = target.ok_counters
            if slot is None:
                slot = target.ok_counters = self._slot(target, "ok")
            answers.tally = (key, target, operation, usage, slot)
            if tally is None:
                slot[BATCHES] += 1
                slot[BATCH_ROWS] += answers.total_rows
                slot[QUEUE_US] += sum(answers.queue_us)
                slot[MODEL_US] += answers.compute_us
        usage[REQUESTS] += 1
        usage[ROWS] += rows
        usage[COMPUTE_US] += answers.compute_us * rows // (answers.batch_rows or 1)
        latency = time.monotonic() - received
        slot[LATENCY_US] += int(latency * 1e6)
        slot[FIRST_BUCKET + bisect_left(BOUNDS, latency)] += 1
        if answers.prompt_tokens:
            usage[PROMPT_TOKENS] += answers.prompt_tokens
            usage[COMPLETION_TOKENS] += answers.completion_tokens
            tokens = self._generations.slot(_label(target, operation))
            tokens[PROMPT] += answers.prompt_tokens
            tokens[COMPLETION] += answers.completion_tokens

    def computed(
        self, key: Key, operation: str, target: LiveTarget, written: GenerationUsage
    ) -> None:
        """Count what the model has done for a request that is not answered yet, or never will."""
        self._slot(target, "ok")[MODEL_US] += written.compute_us
        if written.prompt_tokens:
            self._count_tokens(key, operation, target, written)
        else:
            self._usage.slot(key.id, target.deployment, operation)[COMPUTE_US] += written.compute_us

    def used(
        self, key: Key, deployment: str, operation: str, rows: int, compute_us: int,
        *, is_answer: bool,
    ) -> None:  # fmt: skip
        """Count a request that no batch of this gateway answered, with what it took; it failed
        if it has no answer."""
        usage = self._usage.slot(key.id, deployment, operation)
        usage[REQUESTS if is_answer else ERRORS] += 1
        usage[ROWS] += rows
        usage[COMPUTE_US] += compute_us

    def failed(
        self, key: Key | None, operation: str, deployment: str, target: LiveTarget | None,
        error: MaasError,
    ) -> None:  # fmt: skip
        """Count a refusal or failure; only for deployments that exist."""
        if key is not None:
            self._usage.slot(key.id, deployment, operation)[ERRORS] += 1
        if target is not None:
            self._slot(target, error.code)[COUNT] += 1

    def wrote(
        self,
        key: Key,
        operation: str,
        target: LiveTarget,
        received: float,
        written: GenerationUsage,
    ) -> None:
        """Count a request for text that was answered."""
        usage = self._usage.slot(key.id, target.deployment, operation)
        usage[REQUESTS] += 1
        usage[ROWS] += written.choices
        latency = time.monotonic() - received
        slot = self._slot(target, "ok")
        slot[LATENCY_US] += int(latency * 1e6)
        slot[FIRST_BUCKET + bisect_left(BOUNDS, latency)] += 1
        self._count_tokens(key, operation, target, written)

    def read(self, key: Key, operation: str, target: LiveTarget, tokens: int) -> None:
        """Count the tokens of texts that were read and nothing was written to."""
        self._usage.slot(key.id, target.deployment, operation)[PROMPT_TOKENS] += tokens
        self._generations.slot(_label(target, operation))[PROMPT] += tokens

    def stopped_writing(
        self,
        key: Key,
        operation: str,
        target: LiveTarget,
        written: GenerationUsage,
        error: MaasError | None,
    ) -> None:
        """Count one that ended otherwise, with what was written until then; without an `error`
        its client left."""
        usage = self._usage.slot(key.id, target.deployment, operation)
        usage[ERRORS if error is not None else REQUESTS] += 1
        usage[ROWS] += 0 if error is not None else written.choices
        self._slot(target, error.code if error is not None else "cancelled")[COUNT] += 1
        self._count_tokens(key, operation, target, written)

    def _count_tokens(
        self, key: Key, operation: str, target: LiveTarget, written: GenerationUsage
    ) -> None:
        usage = self._usage.slot(key.id, target.deployment, operation)
        usage[COMPUTE_US] += written.compute_us
        usage[PROMPT_TOKENS] += written.prompt_tokens
        usage[COMPLETION_TOKENS] += written.completion_tokens
        slot = self._generations.slot(_label(target, operation))
        slot[PROMPT] += written.prompt_tokens
        slot[COMPLETION] += written.completion_tokens
        slot[CACHED] += written.cached_tokens
        _observe(slot, FIRST_US, FIRST_FIRST_BUCKET, FIRST_BOUNDS, written.first)
        _observe(slot, PER_TOKEN_US, FIRST_PER_TOKEN_BUCKET, PER_TOKEN_BOUNDS, written.per_token)

    def _slot(self, target: LiveTarget, outcome: str) -> memoryview:
        return self._metrics.slot(_label(target, outcome))

    def totals(self, ending: str = "metrics") -> dict[str, tuple[int, ...]]:
        """Metrics of all gateway workers, added up by label."""
        out: dict[str, tuple[int, ...]] = {}
        for path in self._run_dir.glob(f"*.{ending}"):
            try:
                _, totals, _ = read_counters(path)
            except (OSError, ValueError):
                continue
            for label, counters in totals.items():
                known = out.get(label)
                if known is not None:
                    counters = tuple(map(int.__add__, known, counters))
                out[label] = counters
        return out

    def close(self) -> None:
        self._usage.close()
        self._metrics.close()
        self._generations.close()


def _label(target: LiveTarget, last: str) -> str:
    return "\t".join((target.deployment, str(target.version), target.variant, last))


def _observe(
    slot: memoryview, total_us: int, buckets: int, bounds: Sequence[float], seconds: list[float]
) -> None:
    for one in seconds:
        slot[total_us] += int(one * 1e6)
        slot[buckets + bisect_left(bounds, one)] += 1


def _drop_if_dead(path: Path) -> None:
    """Metrics are per start of a gateway, as Prometheus expects; usage is not, and is kept."""
    try:
        _, _, alive = read_counters(path)
    except OSError:
        return
    except ValueError:
        alive = False
    if not alive:
        path.unlink(missing_ok=True)
