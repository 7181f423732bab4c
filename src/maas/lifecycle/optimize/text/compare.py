"""Comparison of a language model with the original: perplexity, and agreement of greedy answers.

Perplexity is computed over the same tokens for both models, in chunks of a fixed text without the
preceding text as context; its bounds are paired over chunks. Agreement is the average over prompts
of the share of the original's greedy answer before the first different token. After that token the
two answers continue different texts, so later tokens do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maas.lifecycle.metrics.metrics import Floats
from maas.lifecycle.optimize.judgment.compare import RESAMPLES, mean_agreement
from maas.lifecycle.optimize.judgment.paired_metrics import (
    METHOD_WORST_ROW,
    PairedStatistic,
    difference_of,
    draw,
)
from maas.lifecycle.optimize.results import CONFIDENCE, Comparison


@dataclass(frozen=True)
class TextOutputs:
    """Outputs of a candidate for the text and the prompts."""

    scores: list[list[float]]
    """Natural logarithms of the probabilities of each chunk's tokens."""
    answers: list[list[bytes]]
    """Tokens of the greedy answer to each prompt."""


def compare_text(
    name: str, original: TextOutputs, candidate: TextOutputs, *, seed: int, how: dict[str, Any]
) -> Comparison:
    """Perplexity and agreement of the candidate against the original."""
    pair = _perplexity_statistic(original.scores, candidate.scores)
    chunks = len(original.scores)
    draws = draw(pair, seed, RESAMPLES)["perplexity"]
    difference = difference_of("perplexity", draws, chunks, METHOD_WORST_ROW)
    agreements = [agreement(a, b) for a, b in zip(original.answers, candidate.answers, strict=True)]
    return Comparison(
        candidate=name,
        rows=chunks,
        differences=() if difference is None else (difference,),
        agreement=mean_agreement(np.array(agreements), seed),
        how={
            "chunks": chunks,
            "tokens": sum(len(scores) for scores in original.scores),
            "prompts": len(agreements),
            "seed": seed,
            "resamples": RESAMPLES,
            "confidence": CONFIDENCE,
            **how,
        },
    )


def agreement(original: Sequence[bytes], candidate: Sequence[bytes]) -> float:
    """Share of the original's answer, including its end, before the first different token."""
    end = b""
    first, second = [*original, end], [*candidate, end]
    same = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        same += 1
    return same / len(first)


def _perplexity_statistic(
    original: list[list[float]], candidate: list[list[float]]
) -> PairedStatistic:
    """exp of the mean negative logarithm over all tokens.

    A perplexity is unbounded, so the added rows are the chunks with the worst and the best change.
    """
    counts = np.array([len(scores) for scores in original], np.float64)
    before = np.array([-sum(scores) for scores in original])
    after = np.array([-sum(scores) for scores in candidate])
    change = (after - before) / counts
    chunks = np.append(np.arange(len(counts)), [int(change.argmax()), int(change.argmin())])

    def statistic(losses: Floats, weights: Floats) -> dict[str, Floats]:
        return {"perplexity": np.exp((weights @ losses[chunks]) / (weights @ counts[chunks]))}

    return PairedStatistic(
        lambda weights: statistic(before, weights),
        lambda weights: statistic(after, weights),
        len(counts),
    )
