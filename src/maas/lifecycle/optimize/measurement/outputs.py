"""What a candidate's outputs say, in the terms in which candidates are compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from maas.domain.errors import InvalidInput
from maas.domain.models import Task
from maas.domain.names import shown
from maas.domain.signature import Signature
from maas.lifecycle.measure import read_classes, read_numbers
from maas.lifecycle.optimize.measurement.worker_messages import packed, unpacked
from maas.lifecycle.optimize.results import Array, Candidate, CandidateOutputs, EvaluationRows

CLASSES = (Task.BINARY, Task.MULTICLASS)
KEPT = "answers"
"""The file beside a candidate's own that holds what it said about the test rows."""


def keep(folder: Path, outputs: Mapping[str, Array]) -> None:
    """Writes outputs [n, …] by name."""
    (folder / KEPT).write_bytes(msgspec.msgpack.encode(packed(outputs)))


def kept(candidate: Candidate) -> dict[str, Array] | None:
    """What was kept beside it; None if nothing was, as beside an original."""
    path = next(iter(candidate.files.values())).parent / KEPT
    return unpacked(msgspec.msgpack.decode(path.read_bytes())) if path.is_file() else None


def read_answers(
    outputs: Mapping[str, Array], signature: Signature, rows: EvaluationRows
) -> CandidateOutputs:
    """Outputs [n, …] by name as classes, numbers, vectors or texts, by the task.

    Raises InvalidInput if the outputs are not those of such a task.
    """
    if rows.task in CLASSES:
        predicted, scores, names = read_classes(signature, outputs, rows.class_names)
        return CandidateOutputs(rows.task, predicted, scores, names)
    if rows.task in (Task.IMAGE_CLASSIFICATION, Task.TEXT_CLASSIFICATION) and "label" in outputs:
        return _labeled(outputs["label"], rows)
    if rows.task is Task.REGRESSION:
        return CandidateOutputs(rows.task, read_numbers(signature, outputs).reshape(len(rows), -1))
    first = outputs[signature.outputs[0].name]
    if first.dtype.kind == "f":
        return CandidateOutputs(rows.task, first.astype(np.float64).reshape(len(rows), -1))
    return CandidateOutputs(rows.task, first.reshape(len(rows), -1)[:, 0])


def _labeled(labels: Array, rows: EvaluationRows) -> CandidateOutputs:
    """The first of the labels of each row, as the index among the class names."""
    first = [
        v.decode() if isinstance(v, bytes) else str(v)
        for v in labels.reshape(len(rows), -1)[:, 0].tolist()
    ]
    names = rows.class_names
    if not names:
        return CandidateOutputs(rows.task, np.asarray(first, dtype=object))
    index = {name: i for i, name in enumerate(names)}
    unknown = next((v for v in first if v not in index), None)
    if unknown is not None:
        raise InvalidInput(
            f"the model answers {shown(unknown)}, which is none of the {len(names)} class names",
            field="class_names",
        )
    return CandidateOutputs(rows.task, np.asarray([index[v] for v in first]), None, names)
