"""Shapley values of a game whose players are input entries, by enumeration or by sampling.

The worth of a coalition is the model's output when the coalition's entries have the row's values
and all others those of a background row, averaged over the background rows (the interventional or
marginal game).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from maas.lifecycle.metrics.metrics import Bools, Floats, Ints

FEWEST_PAIRS = 4
"""Fewer pairs of permutations give no meaningful standard error."""
BLOCK = 4096
"""Largest number of coalitions in memory, unless one pair of permutations has more."""

CoalitionOutputs = Callable[[Bools, Ints], Floats]
"""Function from coalitions [n, players] and background row numbers [n] to outputs [n]."""


@dataclass(frozen=True)
class ShapleyResult:
    """Shapley values, and how they were computed."""

    values: Floats
    """[players]"""
    standard_errors: Floats
    """[players]; 0 where the value is exact"""
    prediction: float
    baseline: float
    """Mean output of the background rows used."""
    permutations: int
    """Number of permutations sampled; 0 if all coalitions were enumerated."""
    background: Ints
    """Numbers of the background rows used, each equally often."""

    @property
    def method(self) -> str:
        if self.permutations:
            return "antithetic permutation sampling"
        return "all coalitions"


def play(
    outputs_of: CoalitionOutputs, players: int, background: int, *, samples: int, seed: int
) -> ShapleyResult:
    """Enumerates all coalitions if they take at most `samples` rows, else samples permutations."""
    if players == 0:
        # The row equals the background, so one background row represents all.
        return enumerate_coalitions(outputs_of, 0, 1)
    if players < 20 and 2**players * background <= samples:
        return enumerate_coalitions(outputs_of, players, background)
    return sample_permutations(outputs_of, players, background, samples=samples, seed=seed)


def enumerate_coalitions(
    outputs_of: CoalitionOutputs, players: int, background: int
) -> ShapleyResult:
    """Exact values by the definition (Shapley 1953), with 2^players × background model rows."""
    masks = (np.arange(2**players)[:, None] >> np.arange(players)) & 1 == 1
    numbers = np.arange(background)
    outputs = outputs_of(np.repeat(masks, background, axis=0), np.tile(numbers, len(masks)))
    worth = outputs.reshape(len(masks), background).mean(axis=1)
    sizes = masks.sum(axis=1)
    share = np.array([1 / (players * math.comb(players - 1, k)) for k in range(players)])
    values = np.zeros(players)
    for player in range(players):
        without = np.flatnonzero(~masks[:, player])
        gain = worth[without + 2**player] - worth[without]
        values[player] = (share[sizes[without]] * gain).sum()
    nothing = np.zeros(players)
    return ShapleyResult(values, nothing, float(worth[-1]), float(worth[0]), 0, numbers)


def sample_permutations(
    outputs_of: CoalitionOutputs, players: int, background: int, *, samples: int, seed: int
) -> ShapleyResult:
    """Antithetic permutation sampling of about `samples` model rows, at least 4 permutation pairs.

    Each permutation of the players turns a background row into the explained row, one player at a
    time; a player's gains, averaged over permutations, estimate its value (Castro, Gómez and Tejada
    2009). Every permutation is followed by its reverse, which cancels much of the variance
    (Mitchell, Cooper, Frank and Holmes 2022). All background rows are used equally often, so the
    values add up to prediction − baseline for any number of samples.
    """
    generator = np.random.default_rng(seed)
    numbers = _background_numbers(players, background, samples, generator)
    pairs, used = len(numbers), np.unique(numbers)
    ends = outputs_of(
        np.r_[np.zeros((len(used), players), bool), np.ones((1, players), bool)], np.r_[used, 0]
    )
    start, finish = dict(zip(used.tolist(), ends[:-1].tolist(), strict=True)), float(ends[-1])
    gains = np.zeros((pairs, players))
    step = max(1, BLOCK // max(1, 2 * (players - 1)))
    for first in range(0, pairs, step):
        block = numbers[first : first + step]
        orders = generator.permuted(np.tile(np.arange(players), (len(block), 1)), axis=1)
        both = np.stack([orders, orders[:, ::-1]], axis=1)
        walked = _walk(outputs_of, both, block)
        begin = np.array([start[n] for n in block.tolist()])
        begin = np.broadcast_to(begin[:, None, None], (len(block), 2, 1))
        steps = np.diff(np.concatenate([begin, walked, np.full_like(begin, finish)], axis=2))
        single = np.empty_like(steps)
        np.put_along_axis(single, both, steps, axis=2)
        gains[first : first + len(block)] = single.mean(axis=1)
    errors = _standard_errors(gains, len(used))
    baseline = float(ends[:-1].mean())
    return ShapleyResult(gains.mean(axis=0), errors, finish, baseline, 2 * pairs, used)


def _standard_errors(gains: Floats, used: int) -> Floats:
    """Standard errors [players] of gains [pairs, players], sorted by background row.

    The background rows are fixed, not sampled, so only the variance among the pairs of each row
    counts. With one pair per row, it cannot be separated from the variance between rows, and the
    error includes both.
    """
    pairs, players = gains.shape
    if pairs > used:
        spread = gains.reshape(used, -1, players).var(axis=1, ddof=1).mean(axis=0)
    else:
        spread = gains.var(axis=0, ddof=1)
    errors: Floats = np.sqrt(spread / pairs)
    return errors


def _background_numbers(
    players: int, background: int, samples: int, generator: np.random.Generator
) -> Ints:
    """The background row of each pair of permutations; all rows used have the same number."""
    affordable = (samples - 1 - background) // max(1, 2 * (players - 1))
    pairs = max(FEWEST_PAIRS, affordable)
    if pairs < background:
        return np.sort(generator.choice(background, pairs, replace=False)).astype(np.int64)
    # With few players, more repeats than there are permutations would only duplicate them.
    repeats = min(pairs // background, 10_000)
    while repeats * background < FEWEST_PAIRS:
        repeats += 1
    return np.repeat(np.arange(background, dtype=np.int64), repeats)


def _walk(outputs_of: CoalitionOutputs, orders: npt.NDArray[np.intp], numbers: Ints) -> Floats:
    """Outputs [pairs, 2, players − 1] of the coalitions strictly between the empty and the full."""
    pairs, both, players = orders.shape
    if players < 2:
        return np.zeros((pairs, both, 0))
    ranks = np.argsort(orders, axis=2)
    sizes = np.arange(1, players)
    masks = ranks[:, :, None, :] < sizes[None, None, :, None]
    outputs = outputs_of(masks.reshape(-1, players), np.repeat(numbers, both * (players - 1)))
    return outputs.reshape(pairs, both, players - 1)
