"""Results of a load test as table rows for a terminal and a page."""

from __future__ import annotations

from collections.abc import Sequence

from maas.domain.numbers import UNDEFINED, format_number
from maas.lifecycle.load_test.results import LevelResult, Percentiles

TEXT_HEADINGS = (
    "load", "requests", "errors", "ttft ms p50", "p99", "ms/token p50", "p99", "tokens/s",
    "prompt", "output", "cached",
)  # fmt: skip
ROW_HEADINGS = ("load", "requests", "errors", "ms p50", "p99", "requests/s")


def headings(levels: Sequence[LevelResult]) -> tuple[str, ...]:
    if generates_text(levels):
        return TEXT_HEADINGS
    return ROW_HEADINGS


def rows(levels: Sequence[LevelResult]) -> list[tuple[str, ...]]:
    """A row per level; times in milliseconds, prompt and output in tokens per request."""
    if generates_text(levels):
        return [_text_row(level) for level in levels]
    return [_row(level) for level in levels]


def generates_text(levels: Sequence[LevelResult]) -> bool:
    """Whether the responses are generated text."""
    return any(level.tokens_per_s is not None for level in levels)


def errors_text(level: LevelResult) -> str:
    """`0`, or `3: overloaded 2, client_timeout 1`."""
    if not level.errors:
        return "0"
    kinds = ", ".join(f"{code} {count}" for code, count in level.errors.items())
    return f"{sum(level.errors.values())}: {kinds}"


def _text_row(level: LevelResult) -> tuple[str, ...]:
    return (
        _label(level),
        f"{level.requests:,}",
        errors_text(level),
        *_both(level.ttft_ms),
        *_both(level.tpot_ms),
        format_number(level.tokens_per_s),
        _whole(level.prompt_tokens),
        _whole(level.output_tokens),
        _whole(level.cached_tokens),
    )


def _row(level: LevelResult) -> tuple[str, ...]:
    return (
        _label(level),
        f"{level.requests:,}",
        errors_text(level),
        *_both(level.latency_ms),
        format_number(level.requests_per_s),
    )


def _label(level: LevelResult) -> str:
    if level.complete:
        return level.label
    return f"{level.label} (stopped)"


def _both(value: Percentiles | None) -> tuple[str, str]:
    if value is None:
        return (UNDEFINED, UNDEFINED)
    return (format_number(value.p50), format_number(value.p99))


def _whole(value: float | None) -> str:
    if value is None:
        return UNDEFINED
    return f"{value:.0f}"
