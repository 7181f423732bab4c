"""Results of a level, computed from samples of its requests."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
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
    if not values:
        return None
    ordered = sorted(values)
    return Percentiles(percentile(ordered, 50), percentile(ordered, 99))


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
    errors = Counter(s.error for s in samples if s.error)
    seconds = max(s.end for s in samples) - min(s.start for s in samples)
    per_second = 0.0
    if seconds > 0:
        per_second = 1 / seconds
    result = LevelResult(
        concurrency=level[0],
        rate=level[1],
        requests=len(answered),
        errors=dict(sorted(errors.items())),
        seconds=seconds,
        requests_per_s=len(answered) * per_second,
        latency_ms=spread([s.latency_ms for s in answered]),
        client_cores=cpu_s * per_second,
        complete=complete,
    )
    if generates_text and answered:
        return _with_token_figures(result, answered, per_second)
    return result


def _with_token_figures(
    result: LevelResult, answered: Sequence[RequestSample], per_second: float
) -> LevelResult:
    """`result` with the figures of generated text; `per_second` is 1 / the level's seconds."""
    with_text = [s for s in answered if s.first > 0]
    with_several_tokens = [s for s in with_text if s.completion_tokens > 1]
    tokens = sum(s.completion_tokens for s in answered)
    return replace(
        result,
        ttft_ms=spread([s.ttft_ms for s in with_text]),
        tpot_ms=spread([s.tpot_ms for s in with_several_tokens]),
        tokens_per_s=tokens * per_second,
        prompt_tokens=fmean(s.prompt_tokens for s in answered),
        output_tokens=tokens / len(answered),
        cached_tokens=fmean(s.cached_tokens for s in answered),
    )


def notes(load: Load, levels: Sequence[LevelResult], *, same_machine: bool) -> list[str]:
    """Caveats for the interpretation of the results."""
    few, failed, early, cached = [], [], [], []
    most_cores = 0.0
    for level in levels:
        most_cores = max(most_cores, level.client_cores)
        if 0 < level.requests < FEW:
            few.append(level.label)
        if level.errors:
            failed.append(f"{level.label} ({sum(level.errors.values())})")
        output, prompt = level.output_tokens, level.prompt_tokens
        if output is not None and output < 0.9 * load.output_tokens:
            early.append(f"{output:.0f} at {level.label}")
        if prompt and level.cached_tokens and level.cached_tokens > 0.1 * prompt:
            cached.append(f"{level.cached_tokens / prompt:.0%} at {level.label}")
    remarks = []
    if few:
        remarks.append(f"fewer than {FEW} requests, so p99 is the slowest one: {', '.join(few)}")
    if failed:
        remarks.append(f"requests failed and count only as errors: {', '.join(failed)}")
    if same_machine and most_cores > BUSY_CLIENT:
        text = f"the load generator used up to {most_cores:.1f} cores of the server's machine"
        remarks.append(text)
    if early:
        remarks.append(f"outputs ended before {load.output_tokens} tokens: {', '.join(early)}")
    if cached:
        remarks.append(f"prompt tokens from the server's cache: {', '.join(cached)}")
    return remarks
