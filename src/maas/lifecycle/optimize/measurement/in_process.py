"""A candidate loaded in this process, by the runtime that would serve it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from maas.domain.signature import Signature
from maas.lifecycle.optimize.results import Array, Candidate
from maas.runtimes.base import LoadRequest
from maas.runtimes.catalog import create_runtime

BATCH_ROWS = 256


def outputs_of(
    candidate: Candidate, signature: Signature, inputs: Mapping[str, Array]
) -> dict[str, Array]:
    """What the candidate answers for rows [n, …] of every input: every output as [n, …].

    Raises InvalidInput if it does not load, InferenceFailed if it does not answer.
    """
    runtime = create_runtime(candidate.runtime)
    files = {name: path.read_bytes() for name, path in candidate.files.items()}
    options = dict(candidate.options)
    runtime.load(LoadRequest(files, signature, candidate.threads, options))
    rows = len(next(iter(inputs.values())))
    size = min(signature.max_rows or BATCH_ROWS, BATCH_ROWS)
    parts = [
        runtime.predict({name: values[at : at + size] for name, values in inputs.items()})
        for at in range(0, rows, size)
    ]
    return {s.name: np.concatenate([p[s.name] for p in parts]) for s in signature.outputs}
