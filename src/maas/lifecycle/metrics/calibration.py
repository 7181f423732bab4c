"""Calibration: how closely predicted probabilities match observed frequencies."""

from __future__ import annotations

from typing import Any

import numpy as np

from maas.lifecycle.metrics.metrics import Classified, Floats, Ints, ratio

BINS = 10


def bin_of(confidence: Floats, bins: int) -> Ints:
    """[n] index of the equal-width bin (low, high] of each confidence; 0 is in bin 0."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    index: Ints = np.searchsorted(edges[1:-1], confidence).astype(np.int64)
    return index


def calibration_error(rows: Classified, weights: Floats, bins: int = BINS) -> Floats:
    """[b] expected calibration errors (Naeini et al. 2015; Guo et al. 2017).

    The mean over rows of |mean confidence − accuracy| of the row's bin.
    """
    confidence, outcome = rows.confidence
    gap = np.zeros((len(confidence), bins))
    gap[np.arange(len(confidence)), bin_of(confidence, bins)] = confidence - outcome
    return ratio(np.abs(weights @ gap).sum(axis=1), weights.sum(axis=1))


def reliability(rows: Classified, weights: Floats, bins: int = BINS) -> list[dict[str, Any]]:
    """Edges, number of rows, mean confidence and observed frequency of each bin.

    `weights` is [n]. Confidence and frequency (`share`) are None for a bin without rows.
    """
    confidence, outcome = rows.confidence
    index = bin_of(confidence, bins)
    inside = np.eye(bins)[index]
    count = inside.sum(axis=0)
    weight = weights @ inside
    confidences = ratio((weights * confidence) @ inside, weight)
    shares = ratio((weights * outcome) @ inside, weight)
    return [
        {
            "low": b / bins,
            "high": (b + 1) / bins,
            "rows": int(count[b]),
            "confidence": _defined(confidences[b]),
            "share": _defined(shares[b]),
        }
        for b in range(bins)
    ]


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
