"""Comparison of two optimizations by candidates, because their ratios are not independent."""

from __future__ import annotations

import pytest

from benchmarks.reproduce import candidates_outside


def test_several_ratios_outside_of_one_candidate_are_one_event() -> None:
    inside = [True] * 6
    count, chance = candidates_outside([[False] * 6, *[inside] * 9], 0.99)
    assert count == 1
    assert chance == pytest.approx(1 - 0.94**10), (
        "six independent ratios outside would not be chance"
    )


def test_many_candidates_outside_are_not_chance() -> None:
    one = [True] * 5 + [False]
    count, chance = candidates_outside([one] * 6 + [[True] * 6] * 4, 0.99)
    assert count == 6 and chance < 0.001
    assert candidates_outside([], 0.99) == (0, 1)
