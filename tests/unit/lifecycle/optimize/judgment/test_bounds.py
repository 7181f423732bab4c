"""Bounds of paired differences against closed forms, simulation and exact enumeration."""

from __future__ import annotations

import math

import numpy as np
import pytest

from maas.lifecycle.optimize.judgment.bounds import (
    holm,
    mcnemar_p,
    mean_bounds,
    probability_below,
    rows_to_show,
    share_bound,
    share_difference_bound,
    share_loss_p,
)


def binomial(k: int, n: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


@pytest.mark.parametrize(("right", "rows"), [(50, 50), (49, 50), (180, 200), (3, 10), (0, 7)])
def test_the_bound_of_a_share_is_that_of_clopper_and_pearson(right: int, rows: int) -> None:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        at_least = sum(binomial(k, rows, middle) for k in range(right, rows + 1))
        low, high = (middle, high) if at_least < 0.05 else (low, middle)
    assert share_bound(right, rows, 0.05) == pytest.approx(low if right else 0.0, abs=1e-6)


def test_without_losses_only_the_unseen_row_can_outweigh_the_gains() -> None:
    """One lost row has at least half of the weight of five rows with probability 1 / 2⁴."""
    assert probability_below(0, 4, 50, 0.0) == pytest.approx(1 / 16)


@pytest.mark.parametrize(
    ("lost", "gained", "rows", "threshold"),
    [(3, 5, 100, -0.01), (10, 2, 12, -0.5), (60, 80, 1000, -0.01), (500, 520, 9999, -0.004)],
)
def test_the_integral_agrees_with_simulated_weights(
    lost: int, gained: int, rows: int, threshold: float
) -> None:
    random = np.random.default_rng(1)
    counts = (lost + 1, gained, rows - lost - gained)
    down, up, same = (random.standard_gamma(float(k), 40_000) for k in counts)
    share = float(((up - down) / (up + down + same) <= threshold).mean())
    assert probability_below(lost, gained, rows, threshold) == pytest.approx(share, abs=0.008)


@pytest.mark.parametrize("counts", [(0, 0, 5), (6, 0, 7), (0, 9, 9), (40, 60, 500), (3, 0, 400)])
@pytest.mark.parametrize("tail", [0.001, 0.05])
def test_the_tail_is_below_a_bound(counts: tuple[int, int, int], tail: float) -> None:
    bound = share_difference_bound(*counts, tail)
    assert -1 <= bound <= (counts[1] - counts[0]) / counts[2]
    assert tail - 1e-5 < probability_below(*counts, bound) <= tail
    assert probability_below(*counts, bound + 1e-3) > tail


def test_the_bound_without_losses_follows_the_rule_of_three() -> None:
    """With 0 losses in n rows, the true share may be 3 / n."""
    assert share_difference_bound(0, 0, 100, 0.05) == pytest.approx(-0.0295, abs=0.001)
    assert share_difference_bound(0, 0, 1000, 0.05) == pytest.approx(-0.003, abs=0.0002)


def fewest_gains(lost: int, rows: int, threshold: float) -> int:
    """Smallest number of gained rows with which the gate passes."""
    low, high = 0, rows - lost
    if probability_below(lost, high, rows, threshold) > 0.05:
        return rows + 1
    while low < high:
        middle = (low + high) // 2
        if probability_below(lost, middle, rows, threshold) <= 0.05:
            high = middle
        else:
            low = middle + 1
    return low


def probability_to_pass(rows: int, threshold: float, lose: float, gain: float) -> float:
    """Exact probability, over all possible counts of `rows` independent rows."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, rows + 1)))])
    most = min(rows, int(rows * lose + 6 * math.sqrt(rows * lose) + 8))
    total = 0.0
    for lost in range(most + 1):
        gained = np.arange(fewest_gains(lost, rows, threshold), rows - lost + 1)
        if not len(gained):
            continue
        same = rows - lost - gained
        log_p = logs[rows] - logs[lost] - logs[gained] - logs[same]
        log_p = log_p + lost * math.log(lose) + gained * math.log(max(gain, 1e-300))
        log_p = log_p + same * math.log(1 - lose - gain)
        total += float(np.exp(log_p).sum())
    return total


@pytest.mark.parametrize(
    ("rows", "threshold", "gains"),
    [
        (20, -0.1, (0.0001, 0.01, 0.1, 0.3)),
        (60, -0.05, (0.0001, 0.01, 0.03, 0.1, 0.3)),
        (100, 0.0, (0.001, 0.01, 0.1, 0.3)),
        (360, -0.01, (0.0001, 0.001, 0.005, 0.02, 0.05)),
        (1000, -0.01, (0.0001, 0.001, 0.01, 0.03)),
    ],
)
def test_at_the_threshold_the_gate_errs_with_at_most_5_percent(
    rows: int, threshold: float, gains: tuple[float, ...]
) -> None:
    """The true difference is exactly the threshold, so that passing is an error.

    Its probability is computed exactly, for few and for many rows on which the models differ.
    """
    for gain in gains:
        assert probability_to_pass(rows, threshold, gain - threshold, gain) <= 0.05


def test_a_loss_that_a_bootstrap_would_accept() -> None:
    """With a true loss of 2 %, 13 % of all samples of 100 rows have no lost row.

    Every resample of such a sample has the difference 0, which is the reason for the added row.
    """
    assert 0.98**100 > 0.1
    assert probability_to_pass(100, -0.02, 0.02, 1e-9) <= 0.05


@pytest.mark.parametrize(
    ("rows", "power"), [(360, 0.25), (1000, 0.63), (2000, 0.91), (4000, 0.996)]
)
def test_power_without_a_difference_matches_the_documentation(rows: int, power: float) -> None:
    """1 % of the rows is lost, 1 % gained, one point allowed: docs/explanation/gates.md."""
    assert probability_to_pass(rows, -0.01, 0.01, 0.01) == pytest.approx(power, abs=0.006)


def test_an_excessive_loss_is_significant_only_with_enough_rows() -> None:
    assert share_loss_p(20, 0, 20, 0.1) < 1e-4
    assert share_loss_p(9, 0, 10, 0.1) < 0.01
    assert share_loss_p(1, 0, 5, 0.1) > 0.3
    assert share_loss_p(2, 2, 30, 0.1) > 0.5
    # Gains are evidence against a loss.
    assert share_loss_p(12, 4, 40, 0.1) > share_loss_p(12, 0, 40, 0.1)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (0, 6), (3, 9), (10, 10), (1, 0)])
def test_mcnemar_is_the_binomial_test(lost: int, gained: int) -> None:
    changed = lost + gained
    tail = sum(binomial(k, changed, 0.5) for k in range(min(lost, gained) + 1))
    assert mcnemar_p(lost, gained) == pytest.approx(min(1.0, 2 * tail))


def test_mcnemar_of_many_rows_does_not_overflow() -> None:
    assert mcnemar_p(50_000, 50_500) == pytest.approx(0.1155, abs=0.001)


def test_holm_is_the_textbook_procedure() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005], 0.05) == [True, False, False, True]
    assert holm([0.02, 0.02], 0.05) == [True, True]
    assert holm([], 0.05) == []


def test_the_rows_needed_are_enough_and_half_of_them_are_not() -> None:
    needed = rows_to_show(1, 1, 100, -0.01, 0.05)
    assert needed is not None
    share = needed / 100
    enough = share_difference_bound(round(share), round(share), needed, 0.05)
    few = share_difference_bound(round(share / 2), round(share / 2), needed // 2, 0.05)
    assert enough >= -0.01 > few


def test_no_number_of_rows_shows_a_false_statement() -> None:
    assert rows_to_show(5, 0, 100, -0.01, 0.05) is None


def test_the_bound_of_a_mean_is_valid_for_rare_large_losses() -> None:
    """Values of 1 with a rare 0.2, for which a normal interval is wrong."""
    random = np.random.default_rng(7)
    truth = 1 - 0.8 * 0.03
    missed = 0
    for seed in range(200):
        values = np.where(random.random(80) < 0.03, 0.2, 1.0)
        low, high = mean_bounds(values, 0.05, seed)
        assert low <= values.mean() <= high
        missed += low > truth
    assert missed <= 10


def score_passes(lost: int, gained: int, rows: int, threshold: float) -> bool:
    """Tango 1998, Statistics in Medicine 17: the score test of a paired difference."""
    a = 2 * rows
    b = -gained - lost + (2 * rows - gained + lost) * threshold
    c = -lost * threshold * (1 - threshold)
    share = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    spread = math.sqrt(rows * (2 * share + threshold - threshold**2))
    return gained - lost - rows * threshold > 1.6448536 * spread


def bootstrap_passes(lost: int, gained: int, rows: int, threshold: float) -> bool:
    """The lower end of the percentile bootstrap."""
    shares = [lost / rows, gained / rows, 1 - (lost + gained) / rows]
    counts = np.random.default_rng(0).multinomial(rows, shares, 1000)
    means = (counts[:, 1] - counts[:, 0]) / rows
    return bool(np.quantile(means, 0.05) >= threshold - 1e-12)


def test_errors_and_power_of_other_bounds_match_the_decision_record() -> None:
    """docs/decisions/0008-gate-bounds.md: 360 rows, one point allowed; exact over all counts."""

    def probabilities(lose: float, gain: float) -> list[float]:
        totals = [0.0, 0.0, 0.0]
        for lost in range(25):
            for gained in range(25):
                same = 360 - lost - gained
                ways = math.comb(360, lost) * math.comb(360 - lost, gained)
                probability = ways * lose**lost * gain**gained * (1 - lose - gain) ** same
                counts = (lost, gained, 360, -0.01)
                totals[0] += probability * (probability_below(*counts) <= 0.05)
                totals[1] += probability * score_passes(*counts)
                totals[2] += probability * bootstrap_passes(*counts)
        return totals

    assert probabilities(0.015, 0.005) == pytest.approx([0.026, 0.047, 0.078], abs=0.004)
    assert probabilities(0.010, 0.010) == pytest.approx([0.248, 0.327, 0.418], abs=0.01)
