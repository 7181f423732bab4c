"""A scikit-learn estimator beside its ONNX forms: the same answers, and how much faster."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from maas.lifecycle.optimize.measurement.in_process import outputs_of
from maas.lifecycle.optimize.results import Array, Candidate
from maas.lifecycle.optimize.subject import Subject
from maas.runtimes.base import LoadRequest
from maas.runtimes.catalog import create_runtime

BATCHES = (1, 32)
ROUNDS = 5


def beside_estimator(
    subject: Subject, candidates: Mapping[str, Candidate], seconds: float
) -> dict[str, Any]:
    """{estimator, rows, output, candidates: {name: {max_abs_diff, rows_per_s_ratio: {batch: …}}}}.

    `max_abs_diff` is over every test row: of probabilities, or of a regression's values. The
    ratio, ONNX over scikit-learn, is the median of interleaved rounds of `seconds` altogether.
    """
    (name,) = subject.rows.inputs
    rows = subject.rows.inputs[name]
    flat = rows.reshape(len(rows), -1)
    estimator = subject.estimator
    output, expected = _said(estimator, flat)
    found: dict[str, Any] = {}
    for candidate in candidates.values():
        said = outputs_of(candidate, subject.signature, {name: rows}).get(output)
        if said is None:
            continue
        difference = float(np.abs(said.reshape(expected.shape) - expected).max())
        found[candidate.name] = {
            "max_abs_diff": difference,
            "rows_per_s_ratio": {
                str(batch): _ratio(subject, candidate, flat[:batch], rows[:batch], seconds)
                for batch in BATCHES
            },
        }
    return {
        "estimator": type(estimator).__name__,
        "rows": len(rows),
        "output": output,
        "candidates": found,
    }


def _said(estimator: Any, rows: Array) -> tuple[str, Array]:
    """The output's name in the signature, and what the estimator itself says."""
    if hasattr(estimator, "predict_proba"):
        return "probabilities", np.asarray(estimator.predict_proba(rows))
    if hasattr(estimator, "classes_"):
        said = estimator.predict(rows)
        return "label", np.searchsorted(estimator.classes_, said)
    return "prediction", np.asarray(estimator.predict(rows)).reshape(len(rows), -1)


def _ratio(
    subject: Subject, candidate: Candidate, flat: Array, rows: Array, seconds: float
) -> float:
    runtime = create_runtime(candidate.runtime)
    files = {name: path.read_bytes() for name, path in candidate.files.items()}
    request = LoadRequest(files, subject.signature, candidate.threads, dict(candidate.options))
    runtime.load(request)
    inputs = {subject.signature.inputs[0].name: rows}
    ask = getattr(subject.estimator, "predict_proba", subject.estimator.predict)
    slot = seconds / (2 * ROUNDS * len(BATCHES))
    ratios = []
    for _ in range(ROUNDS):
        own = _calls(lambda: ask(flat), slot)
        ratios.append(_calls(lambda: runtime.predict(inputs), slot) / own)
    return float(np.median(ratios))


def _calls(call: Callable[[], Any], seconds: float) -> float:
    """Calls per second."""
    call()
    began, count = time.perf_counter(), 0
    while True:
        call()
        count += 1
        spent = time.perf_counter() - began
        if spent >= seconds:
            return count / spent
