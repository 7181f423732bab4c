"""Outputs of a candidate that is loaded in this process, by the runtime that would serve it."""

from __future__ import annotations

from collections.abc import Mapping

from maas.domain.signature import Signature
from maas.lifecycle.optimize.measurement.outputs import concatenated
from maas.lifecycle.optimize.results import Array, Candidate
from maas.runtimes.base import LoadRequest, Runtime
from maas.runtimes.catalog import create_runtime

BATCH_ROWS = 256


def load_runtime(candidate: Candidate, signature: Signature) -> Runtime:
    """The candidate's runtime with its files loaded. Raises InvalidInput if it does not load."""
    runtime = create_runtime(candidate.runtime)
    files = {name: path.read_bytes() for name, path in candidate.files.items()}
    runtime.load(LoadRequest(files, signature, candidate.threads, dict(candidate.options)))
    return runtime


def outputs_of(
    candidate: Candidate, signature: Signature, inputs: Mapping[str, Array]
) -> dict[str, Array]:
    """Every output as [n, …], for rows [n, …] of every input.

    Raises InvalidInput if the candidate does not load, InferenceFailed if it does not answer.
    """
    runtime = load_runtime(candidate, signature)
    rows = len(next(iter(inputs.values())))
    size = min(signature.max_rows or BATCH_ROWS, BATCH_ROWS)
    parts = []
    for start in range(0, rows, size):
        batch = {name: values[start : start + size] for name, values in inputs.items()}
        parts.append(runtime.predict(batch))
    outputs = concatenated(parts)
    return {spec.name: outputs[spec.name] for spec in signature.outputs}
