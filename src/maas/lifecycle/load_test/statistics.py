"""Results of a level, computed from samples of its requests."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from maas.lifecycle.load_test.results import LevelResult, Load, Percentiles, RequestSample

NOT_SENT = "not_sent"
BUSY_CLIENT = 0.5
"""Cores; a load generator that uses more competes with a server on the same machine."""
FEW = 100
"""With fewer values, the nearest-rank 99th percentile is the largest value."""


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile of values in ascending order: the smallest one that at least
    `percent` of them do not exceed. Raises ValueError if there are no values."""
    if not ordered:
        raise ValueError("there are no values")
    rank = math.ceil(percent / 100 * len(ordered))
    return ordered[max(0, min(len(ordered), rank) - 1)]


def spread(values: Sequence[float]) -> Percentiles | None:
    """Median and 99th percentile; None if there are no values."""
    ordered = sorted(values)
    return Percentiles(percentile(ordered, 50), percentile(ordered, 99)) if ordered else None


def figures(
    level: tuple[int | None, float | None],
    samples: Sequence[RequestSample],
    *,
    generates_text: bool,
    cpu_s: float = 0.0,
    complete: bool = True,
) -> LevelResult:
    """The result of a level, which is (concurrency, rate).

    `generates_text`: whether the responses are generated text. Raises ValueError if there are no
    samples.
    """
    answered = [s for s in samples if not s.error]
    seconds = max(s.end for s in samples) - min(s.start for s in samples)
    per_second = 1 / seconds if seconds > 0 else 0.0
    tokens = sum(s.completion_tokens for s in answered)
    several = [s for s in answered if s.completion_tokens > 1 and s.first > 0]
    has_text = generates_text and bool(answered)
    return LevelResult(
        concurrency=level[0],
        rate=level[1],
        requests=len(answered),
        errors=dict(sorted(Counter(s.error for s in samples if s.error).items())),
        seconds=seconds,
        requests_per_s=len(answered) * per_second,
        latency_ms=spread([(s.end - s.start) * 1e3 for s in answered]),
        ttft_ms=spread([(s.first - s.start) * 1e3 for s in answered if s.first > 0])
        if generates_text
        else None,
        tpot_ms=spread([(s.last - s.first) * 1e3 / (s.completion_tokens - 1) for s in several])
        if generates_text
        else None,
        tokens_per_s=tokens * per_second if has_text else None,
        prompt_tokens=fmean(s.prompt_tokens for s in answered) if has_text else None,
        output_tokens=tokens / len(answered) if has_text else None,
        cached_tokens=fmean(s.cached_tokens for s in answered) if has_text else None,
        client_cores=cpu_s * per_second,
        complete=complete,
    )


def notes(load: Load, levels: Sequence[LevelResult], *, same_machine: bool) -> list[str]:
    """Caveats for the interpretation of the results."""
    remarks = []
    few = [f.label for f in levels if 0 < f.requests < FEW]
    if few:
        remarks.append(f"fewer than {FEW} requests, so p99 is the slowest one: {', '.join(few)}")
    failed = [f"{f.label} ({sum(f.errors.values())})" for f in levels if f.errors]
    if failed:
        levels_text = ", ".join(failed)
        remarks.append(f"requests failed and count only as errors: {levels_text}")
    busy = [f for f in levels if f.client_cores > BUSY_CLIENT]
    if busy and same_machine:
        most = max(f.client_cores for f in busy)
        remarks.append(f"the load generator used up to {most:.1f} cores of the server's machine")
    early = [
        f"{f.output_tokens:.0f} at {f.label}"
        for f in levels
        if f.output_tokens is not None and f.output_tokens < 0.9 * load.output_tokens
    ]
    if early:
        remarks.append(f"outputs ended before {load.output_tokens} tokens: {', '.join(early)}")
    cached = [
        f"{f.cached_tokens / f.prompt_tokens:.0%} at {f.label}"
        for f in levels
        if f.cached_tokens and f.prompt_tokens and f.cached_tokens > 0.1 * f.prompt_tokens
    ]
    if cached:
        remarks.append(f"prompt tokens from the server's cache: {', '.join(cached)}")
    return remarks
