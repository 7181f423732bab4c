"""Comparison of a scikit-learn estimator with its ONNX candidates: same answers, relative speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from maas.lifecycle.optimize.measurement.in_process import load_runtime, outputs_of
from maas.lifecycle.optimize.results import Array, Candidate
from maas.lifecycle.optimize.subject import Subject

BATCHES = (1, 32)
ROUNDS = 5


def compare_with_estimator(
    subject: Subject, candidates: Mapping[str, Candidate], seconds: float
) -> dict[str, Any]:
    """{estimator, rows, output, candidates: {name: {max_abs_diff, rows_per_s_ratio: {batch: …}}}}.

    `max_abs_diff` is the largest difference over all test rows, of probabilities or of a
    regression's values. The ratio is ONNX over scikit-learn, the median of interleaved rounds that
    take `seconds` in total.
    """
    (name,) = subject.rows.inputs
    rows = subject.rows.inputs[name]
    flat = rows.reshape(len(rows), -1)
    estimator = subject.estimator
    output, expected = _estimator_output(estimator, flat)
    results: dict[str, Any] = {}
    for candidate in candidates.values():
        values = outputs_of(candidate, subject.signature, {name: rows}).get(output)
        if values is None:
            continue
        ratios = {}
        for batch in BATCHES:
            ratio = _speed_ratio(subject, candidate, flat[:batch], rows[:batch], seconds)
            ratios[str(batch)] = ratio
        results[candidate.name] = {
            "max_abs_diff": float(np.abs(values.reshape(expected.shape) - expected).max()),
            "rows_per_s_ratio": ratios,
        }
    return {
        "estimator": type(estimator).__name__,
        "rows": len(rows),
        "output": output,
        "candidates": results,
    }


def _estimator_output(estimator: Any, rows: Array) -> tuple[str, Array]:
    """Name of the signature's output, and the estimator's own values for it."""
    if hasattr(estimator, "predict_proba"):
        return "probabilities", np.asarray(estimator.predict_proba(rows))
    if hasattr(estimator, "classes_"):
        return "label", np.searchsorted(estimator.classes_, estimator.predict(rows))
    return "prediction", np.asarray(estimator.predict(rows)).reshape(len(rows), -1)


def _speed_ratio(
    subject: Subject, candidate: Candidate, flat: Array, rows: Array, seconds: float
) -> float:
    runtime = load_runtime(candidate, subject.signature)
    inputs = {subject.signature.inputs[0].name: rows}
    predict = getattr(subject.estimator, "predict_proba", subject.estimator.predict)
    slot = seconds / (2 * ROUNDS * len(BATCHES))
    ratios = []
    for _ in range(ROUNDS):
        estimator_rate = _calls_per_s(lambda: predict(flat), slot)
        ratios.append(_calls_per_s(lambda: runtime.predict(inputs), slot) / estimator_rate)
    return float(np.median(ratios))


def _calls_per_s(call: Callable[[], Any], seconds: float) -> float:
    call()
    start, count = time.perf_counter(), 0
    while True:
        call()
        count += 1
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return count / elapsed
