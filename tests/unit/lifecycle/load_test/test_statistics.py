"""Results of a level by the documented definitions."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from maas.domain.errors import InvalidInput
from maas.lifecycle.load_test.prompts import prompt, words_for
from maas.lifecycle.load_test.results import LevelResult, Load, Percentiles, RequestSample
from maas.lifecycle.load_test.statistics import figures, notes, percentile, spread


def written(start: float, first: float, last: float, tokens: int, **more: int) -> RequestSample:
    return RequestSample(start, first, last, last + 0.5, more.get("prompt", 10), tokens,
                  more.get("cached", 0))  # fmt: skip


def test_percentiles_are_values_that_occurred() -> None:
    draw = random.Random(1)
    for count in (1, 2, 3, 99, 100, 101, 1000):
        values = sorted(draw.random() for _ in range(count))
        for percent in (50, 99):
            expected = np.percentile(values, percent, method="inverted_cdf")
            assert percentile(values, percent) == expected
    assert percentile(list(range(1, 101)), 99) == 99
    assert percentile([5.0, 7.0], 99) == 7.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)
    assert spread([]) is None


def test_a_level_of_text() -> None:
    samples = [
        written(10.0, 11.0, 13.0, 5, prompt=20, cached=4),  # 2 s for 4 tokens after the first
        written(10.0, 10.5, 13.5, 4),  # 3 s for 3
        RequestSample(12.0, 0.0, 0.0, 12.1, error="overloaded"),
    ]
    result = figures((2, None), samples, generates_text=True, cpu_s=1.0)
    assert (result.requests, result.errors, result.seconds) == (2, {"overloaded": 1}, 4.0)
    assert result.ttft_ms == Percentiles(500.0, 1000.0)
    assert result.tpot_ms == Percentiles(500.0, 1000.0)
    assert result.latency_ms == Percentiles(3500.0, 4000.0)
    assert result.tokens_per_s == 9 / 4.0
    assert (result.prompt_tokens, result.output_tokens, result.cached_tokens) == (15, 4.5, 2)
    assert (result.requests_per_s, result.client_cores) == (0.5, 0.25)


def test_a_response_of_one_token_has_no_time_per_token() -> None:
    result = figures((1, None), [written(0.0, 1.0, 1.0, 1)], generates_text=True)
    assert result.tpot_ms is None
    assert result.ttft_ms == Percentiles(1000.0, 1000.0)


def test_a_level_with_failures_only() -> None:
    result = figures(
        (1, None), [RequestSample(0.0, 0.0, 0.0, 1.0, error="x")] * 2, generates_text=True
    )
    assert (result.requests, result.errors, result.latency_ms) == (0, {"x": 2}, None)
    assert result.ttft_ms is None and result.tokens_per_s is None


def test_a_level_of_rows_has_no_tokens() -> None:
    result = figures((None, 5.0), [RequestSample(0.0, 0.2, 0.2, 0.2)], generates_text=False)
    assert result.label == "rate 5/s"
    assert result.latency_ms == Percentiles(200.0, 200.0)
    assert (result.ttft_ms, result.tpot_ms, result.tokens_per_s) == (None, None, None)
    assert LevelResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_notes_name_every_caveat() -> None:
    slow = figures(
        (4, None), [written(0.0, 1.0, 2.0, 3, cached=9)], generates_text=True, cpu_s=2.0
    )  # fmt: skip
    failed = figures((8, None), [RequestSample(0.0, 0.0, 0.0, 1.0, error="x")], generates_text=True)
    text = "\n".join(notes(Load(output_tokens=64), [slow, failed], same_machine=True))
    for part in ("p99 is the slowest", "requests failed", "0.8 cores", "ended before 64", "90%"):
        assert part in text
    many = [written(0.0, 1.0, 2.0, 64)] * 100
    calm = figures((4, None), many, generates_text=True)
    assert notes(Load(output_tokens=64), [calm], same_machine=True) == []


def test_prompts_repeat_for_a_seed_and_differ_from_the_first_word() -> None:
    assert prompt(1, 0, 7, 50) == prompt(1, 0, 7, 50)
    others = [prompt(1, 0, 8, 50), prompt(1, 1, 7, 50), prompt(2, 0, 7, 50)]
    assert len({prompt(1, 0, 7, 50), *others}) == 4
    firsts = {prompt(0, 0, number, 20).split()[0] for number in range(200)}
    assert len(firsts) > 80
    assert len(prompt(0, 0, 0, 33).split()) == 33
    assert (words_for(128, 128, 160), words_for(1, 128, 999), words_for(10, 10, 0)) == (102, 1, 100)


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": (0,)}, {"concurrency": (1025,)}, {"rates": (0.0,)}, {"rates": (1e6,)},
        {"rates": (float("nan"),)}, {"seconds": float("inf")}, {"seconds": float("nan")},
        {"requests": 0}, {"output_tokens": 0}, {"prompt_tokens": 10**7}, {"seed": -1},
        {"concurrency": (1,), "rates": (1.0,)}, {"concurrency": (1,) * 17},
    ],
)  # fmt: skip
def test_a_load_has_bounds(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        Load(**wrong)  # type: ignore[arg-type]
