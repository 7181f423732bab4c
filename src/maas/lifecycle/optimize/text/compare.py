"""Compare: what a language model says beside what the original says.

Perplexity is of the same tokens for both, in chunks of a fixed text that are read without what came
before; its bounds are paired, over chunks. Agreement is of greedy answers to fixed prompts: the
share of the original's answer that the candidate's begins with, on average over prompts. After the
first other token two answers are of different texts, so that nothing behind it is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maas.lifecycle.metrics.metrics import Floats
from maas.lifecycle.optimize.judgment.compare import RESAMPLES, mean_agreement
from maas.lifecycle.optimize.judgment.paired_metrics import WORST_SEEN, Pair, difference_of, spread
from maas.lifecycle.optimize.results import CONFIDENCE, Comparison


@dataclass(frozen=True)
class TextOutputs:
    """What a candidate made of the text and the prompts."""

    scores: list[list[float]]
    """By chunk: natural logarithms of the probabilities of its tokens."""
    answers: list[list[bytes]]
    """By prompt: the tokens of its greedy answer."""


def compare_text(
    name: str, original: TextOutputs, candidate: TextOutputs, *, seed: int, how: dict[str, Any]
) -> Comparison:
    """Perplexity and agreement of the candidate beside the original's."""
    pair = _perplexity(original.scores, candidate.scores)
    chunks = len(original.scores)
    found = spread(pair, seed, RESAMPLES)["perplexity"]
    difference = difference_of("perplexity", found, chunks, WORST_SEEN)
    alike = [agreement(a, b) for a, b in zip(original.answers, candidate.answers, strict=True)]
    return Comparison(
        candidate=name,
        rows=chunks,
        differences=() if difference is None else (difference,),
        agreement=mean_agreement(np.array(alike), seed),
        how={
            "chunks": chunks,
            "tokens": sum(len(scores) for scores in original.scores),
            "prompts": len(alike),
            "seed": seed,
            "resamples": RESAMPLES,
            "confidence": CONFIDENCE,
            **how,
        },
    )


def agreement(original: Sequence[bytes], candidate: Sequence[bytes]) -> float:
    """The share of the original's answer, its end included, up to the first other token."""
    ended = [*original, b""], [*candidate, b""]
    same = 0
    for a, b in zip(*ended, strict=False):
        if a != b:
            break
        same += 1
    return same / len(ended[0])


def _perplexity(original: list[list[float]], candidate: list[list[float]]) -> Pair:
    """exp of the mean negative logarithm over all tokens; the added rows are the chunks that lost
    and won most, for a perplexity has no limit."""
    counts = np.array([len(scores) for scores in original], np.float64)
    before, after = (np.array([-sum(s) for s in side]) for side in (original, candidate))
    change = (after - before) / counts
    more = np.append(np.arange(len(counts)), [int(change.argmax()), int(change.argmin())])

    def statistic(lost: Floats, weights: Floats) -> dict[str, Floats]:
        return {"perplexity": np.exp((weights @ lost[more]) / (weights @ counts[more]))}

    return Pair(
        lambda weights: statistic(before, weights),
        lambda weights: statistic(after, weights),
        len(counts),
        WORST_SEEN,
    )
