"""Metrics that compare texts with reference texts: translations and transcripts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from maas.domain.errors import InvalidInput

ORDER = 6
"""Longest character n-gram of chrF."""
BETA = 2.0
"""Weight of recall relative to precision in chrF."""


def chrf(predicted: Sequence[str], expected: Sequence[str]) -> float:
    """F-score of character n-grams over all pairs, from 0 to 100, as sacreBLEU computes it.

    N-grams have 1 to 6 characters without white space, β is 2, and counts are summed over the
    texts. Source: Popović, chrF: character n-gram F-score for automatic MT evaluation, 2015.
    """
    pairs = _pairs(predicted, expected)
    matches, in_predicted, in_expected = [0] * ORDER, [0] * ORDER, [0] * ORDER
    for one, other in pairs:
        for n in range(ORDER):
            a, b = _grams(one, n + 1), _grams(other, n + 1)
            matches[n] += (a & b).total()
            in_predicted[n] += a.total()
            in_expected[n] += b.total()
    orders = [n for n in range(ORDER) if in_predicted[n] and in_expected[n]]
    if not orders:
        return 0.0
    precision = sum(matches[n] / in_predicted[n] for n in orders) / len(orders)
    recall = sum(matches[n] / in_expected[n] for n in orders) / len(orders)
    if not precision + recall:
        return 0.0
    return 100 * (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)


def word_error_rate(predicted: Sequence[str], expected: Sequence[str]) -> float:
    """Inserted, deleted and substituted words per reference word, over all pairs.

    0 is best; the rate can exceed 1. Case and punctuation do not count. Source: the edit distance
    of Levenshtein, 1966, over words.
    """
    errors = words = 0
    for one, other in _pairs(predicted, expected):
        a, b = _words(one), _words(other)
        errors += _distance(a, b)
        words += len(b)
    if not words:
        raise InvalidInput("expected must have at least one word; got none", field="expected")
    return errors / words


def _pairs(predicted: Sequence[str], expected: Sequence[str]) -> list[tuple[str, str]]:
    if isinstance(predicted, str) or isinstance(expected, str) or len(predicted) != len(expected):
        raise InvalidInput(
            "predicted and expected must be lists of the same number of texts", field="predicted"
        )
    return list(zip(predicted, expected, strict=True))


def _grams(text: str, size: int) -> Counter[str]:
    joined = "".join(text.split())
    return Counter(joined[at : at + size] for at in range(len(joined) - size + 1))


def _words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())


def _distance(a: list[str], b: list[str]) -> int:
    row = list(range(len(b) + 1))
    for i, one in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            replaced = previous if one == other else previous + 1
            previous = row[j]
            row[j] = min(replaced, row[j] + 1, row[j - 1] + 1)
    return row[-1]
