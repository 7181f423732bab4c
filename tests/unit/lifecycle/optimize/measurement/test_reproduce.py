"""What a second run is held against: candidates, whose ratios come from the same calls."""

from __future__ import annotations

import pytest

from benchmarks.reproduce import candidates_outside


def test_ratios_of_one_candidate_that_fall_outside_together_are_one_event() -> None:
    inside = [True] * 6
    count, chance = candidates_outside([[False] * 6, *[inside] * 9], 0.99)
    assert count == 1
    assert chance == pytest.approx(1 - 0.94**10), "the same six, each by itself, would be no chance"


def test_many_candidates_outside_are_no_chance() -> None:
    one = [True] * 5 + [False]
    count, chance = candidates_outside([one] * 6 + [[True] * 6] * 4, 0.99)
    assert count == 6 and chance < 0.001
    assert candidates_outside([], 0.99) == (0, 1)
