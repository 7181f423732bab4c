"""Outputs of a candidate: stored with its files, and converted to the form that is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
OUTPUTS_FILE = "outputs"
"""File next to a candidate's own, with its outputs for the test rows."""


def concatenated(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Outputs [n, …] by name, from those of consecutive batches of rows."""
    outputs = {}
    for name in parts[0]:
        outputs[name] = np.concatenate([part[name] for part in parts])
    return outputs


def save_outputs(folder: Path, outputs: Mapping[str, Array]) -> None:
    """Writes outputs [n, …] by name."""
    (folder / OUTPUTS_FILE).write_bytes(msgspec.msgpack.encode(packed(outputs)))


def load_outputs(candidate: Candidate) -> dict[str, Array] | None:
    """Outputs saved next to the candidate's file; None if there are none, as for an original."""
    path = next(iter(candidate.files.values())).parent / OUTPUTS_FILE
    return unpacked(msgspec.msgpack.decode(path.read_bytes())) if path.is_file() else None


def convert_outputs(
    outputs: Mapping[str, Array], signature: Signature, rows: EvaluationRows
) -> CandidateOutputs:
    """Outputs [n, …] by name as classes, numbers, vectors or texts, depending on the task.

    Raises InvalidInput if the outputs do not fit the task.
    """
    if rows.task in CLASSES:
        predicted, scores, names = read_classes(signature, outputs, rows.class_names)
        return CandidateOutputs(rows.task, predicted, scores, names)
    if rows.task in (Task.IMAGE_CLASSIFICATION, Task.TEXT_CLASSIFICATION) and "label" in outputs:
        return _from_labels(outputs["label"], rows)
    if rows.task is Task.REGRESSION:
        return CandidateOutputs(rows.task, read_numbers(signature, outputs).reshape(len(rows), -1))
    first = outputs[signature.outputs[0].name]
    if first.dtype.kind == "f":
        return CandidateOutputs(rows.task, first.astype(np.float64).reshape(len(rows), -1))
    return CandidateOutputs(rows.task, first.reshape(len(rows), -1)[:, 0])


def _from_labels(labels: Array, rows: EvaluationRows) -> CandidateOutputs:
    """The first label of each row, as an index into the class names if there are any."""
    first = [_text(label) for label in labels.reshape(len(rows), -1)[:, 0].tolist()]
    names = rows.class_names
    if not names:
        return CandidateOutputs(rows.task, np.asarray(first, dtype=object))
    index = {name: i for i, name in enumerate(names)}
    unknown = next((label for label in first if label not in index), None)
    if unknown is not None:
        raise InvalidInput(
            f"the model answers {shown(unknown)}, which is none of the {len(names)} class names",
            field="class_names",
        )
    return CandidateOutputs(rows.task, np.asarray([index[label] for label in first]), None, names)


def _text(label: object) -> str:
    return label.decode() if isinstance(label, bytes) else str(label)
