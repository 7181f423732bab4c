"""Usage per key, for the ledger, and metrics per deployment.

Both are counters in memory-mapped files. Counting costs no system call, a crash loses nothing, and
every gateway worker can show the metrics of all workers.
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
"""Upper bounds of the latency histogram's buckets, in seconds; the last bucket has no bound."""
COUNT, LATENCY_US, QUEUE_US, MODEL_US, BATCHES, BATCH_ROWS, FIRST_BUCKET = range(7)
"""Places of the counters. COUNT has the failures; the buckets have the answers."""
WIDTH = FIRST_BUCKET + len(BOUNDS) + 1

FIRST_BOUNDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0,
                7.5, 10.0)  # fmt: skip
PER_TOKEN_BOUNDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
"""Upper bounds of the histograms of the time to the first token and per further token, in seconds.
Source: OpenTelemetry's conventions for generative models."""
PROMPT, COMPLETION, CACHED, FIRST_US, PER_TOKEN_US, FIRST_FIRST_BUCKET = range(6)
FIRST_PER_TOKEN_BUCKET = FIRST_FIRST_BUCKET + len(FIRST_BOUNDS) + 1
GENERATION_WIDTH = FIRST_PER_TOKEN_BUCKET + len(PER_TOKEN_BOUNDS) + 1
GENERATIONS = "generations"
"""File name extension of the counters of generations."""


@dataclass
class GenerationUsage:
    """Usage of one request for generated text, as counted by the engine, and its timings."""

    choices: int
    """Number of sequences."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    compute_us: int = 0
    """The request's share of the engine's time, in microseconds."""
    first: list[float] = field(default_factory=list)
    """Seconds from the request's head to the first token, for each choice with any output."""
    per_token: list[float] = field(default_factory=list)
    """Mean seconds per further token, for each choice with more than one token."""


@dataclass(frozen=True)
class RelayedUsage:
    """Usage of a request that control handled, as control reports it."""

    rows: int
    compute_us: int
    is_success: bool
    """Whether control answered with status 200."""


class Meter:
    """Counts usage and metrics of one gateway process."""

    def __init__(self, usage_dir: Path, run_dir: Path, source: str) -> None:
        """`source` identifies this gateway process and is never reused."""
        self._usage = UsageFile(usage_dir, source)
        for extension in ("metrics", GENERATIONS):
            for old in run_dir.glob(f"*.{extension}"):
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
        """Count one of `answers`, just before the response is sent.

        `received` is when the request's head arrived, in seconds on the monotonic clock. The batch
        is counted once, with its first answer.
        """
        # Most answers of a frame use the same counters.
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
        self, key: Key, operation: str, target: LiveTarget, usage: GenerationUsage
    ) -> None:
        """Count work of the model for a request without an answer: unfinished, or canceled."""
        self._slot(target, "ok")[MODEL_US] += usage.compute_us
        if usage.prompt_tokens:
            self._count_tokens(key, operation, target, usage)
        else:
            counters = self._usage.slot(key.id, target.deployment, operation)
            counters[COMPUTE_US] += usage.compute_us

    def relayed(self, key: Key, deployment: str, operation: str, usage: RelayedUsage) -> None:
        """Count a request that control handled."""
        counters = self._usage.slot(key.id, deployment, operation)
        counters[REQUESTS if usage.is_success else ERRORS] += 1
        counters[ROWS] += usage.rows
        counters[COMPUTE_US] += usage.compute_us

    def failed(
        self, key: Key | None, operation: str, deployment: str, target: LiveTarget | None,
        error: MaasError,
    ) -> None:  # fmt: skip
        """Count a request that was refused or failed. `deployment` must exist."""
        if key is not None:
            self._usage.slot(key.id, deployment, operation)[ERRORS] += 1
        if target is not None:
            self._slot(target, error.code)[COUNT] += 1

    def generated(
        self,
        key: Key,
        operation: str,
        target: LiveTarget,
        received: float,
        usage: GenerationUsage,
    ) -> None:
        """Count a complete request for generated text.

        `received` is when the request's head arrived, in seconds on the monotonic clock.
        """
        counters = self._usage.slot(key.id, target.deployment, operation)
        counters[REQUESTS] += 1
        counters[ROWS] += usage.choices
        latency = time.monotonic() - received
        slot = self._slot(target, "ok")
        slot[LATENCY_US] += int(latency * 1e6)
        slot[FIRST_BUCKET + bisect_left(BOUNDS, latency)] += 1
        self._count_tokens(key, operation, target, usage)

    def processed_prompts(self, key: Key, operation: str, target: LiveTarget, tokens: int) -> None:
        """Count the tokens of prompts that were processed without generating text."""
        self._usage.slot(key.id, target.deployment, operation)[PROMPT_TOKENS] += tokens
        self._generations.slot(_label(target, operation))[PROMPT] += tokens

    def stopped(
        self,
        key: Key,
        operation: str,
        target: LiveTarget,
        usage: GenerationUsage,
        error: MaasError | None,
    ) -> None:
        """Count a request for generated text that ended early, with its usage until then.

        Without an `error`, its client disconnected.
        """
        counters = self._usage.slot(key.id, target.deployment, operation)
        if error is not None:
            counters[ERRORS] += 1
            outcome = error.code
        else:
            counters[REQUESTS] += 1
            counters[ROWS] += usage.choices
            outcome = "cancelled"
        self._slot(target, outcome)[COUNT] += 1
        self._count_tokens(key, operation, target, usage)

    def _count_tokens(
        self, key: Key, operation: str, target: LiveTarget, usage: GenerationUsage
    ) -> None:
        counters = self._usage.slot(key.id, target.deployment, operation)
        counters[COMPUTE_US] += usage.compute_us
        counters[PROMPT_TOKENS] += usage.prompt_tokens
        counters[COMPLETION_TOKENS] += usage.completion_tokens
        slot = self._generations.slot(_label(target, operation))
        slot[PROMPT] += usage.prompt_tokens
        slot[COMPLETION] += usage.completion_tokens
        slot[CACHED] += usage.cached_tokens
        _observe(slot, FIRST_US, FIRST_FIRST_BUCKET, FIRST_BOUNDS, usage.first)
        _observe(slot, PER_TOKEN_US, FIRST_PER_TOKEN_BUCKET, PER_TOKEN_BOUNDS, usage.per_token)

    def _slot(self, target: LiveTarget, outcome: str) -> memoryview:
        return self._metrics.slot(_label(target, outcome))

    def totals(self, extension: str = "metrics") -> dict[str, tuple[int, ...]]:
        """The counters of all gateway workers, added up by label."""
        sums: dict[str, tuple[int, ...]] = {}
        for path in self._run_dir.glob(f"*.{extension}"):
            try:
                _, totals, _ = read_counters(path)
            except (OSError, ValueError):
                continue
            for label, counters in totals.items():
                if label in sums:
                    counters = tuple(map(int.__add__, sums[label], counters))
                sums[label] = counters
        return sums

    def close(self) -> None:
        self._usage.close()
        self._metrics.close()
        self._generations.close()


def _label(target: LiveTarget, last: str) -> str:
    """The label of a counter; `last` is an outcome or an operation."""
    return "\t".join((target.deployment, str(target.version), target.variant, last))


def _observe(
    slot: memoryview, total_us: int, buckets: int, bounds: Sequence[float], seconds: list[float]
) -> None:
    """Add the values `seconds` to the histogram in `slot`."""
    for value in seconds:
        slot[total_us] += int(value * 1e6)
        slot[buckets + bisect_left(bounds, value)] += 1


def _drop_if_dead(path: Path) -> None:
    """Delete the counters of a process that has exited.

    Metrics start at zero with each process, as Prometheus expects. Usage files are not deleted.
    """
    try:
        _, _, alive = read_counters(path)
    except OSError:
        return
    except ValueError:
        alive = False
    if not alive:
        path.unlink(missing_ok=True)
