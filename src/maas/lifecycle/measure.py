"""Predictions of an ONNX file for evaluation and explanation."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maas.domain.errors import InvalidInput
from maas.domain.models import Task
from maas.domain.signature import DATATYPES, Signature
from maas.lifecycle.conversion.onnx_files import open_session, run_session
from maas.lifecycle.evaluate import EvaluationRequest
from maas.lifecycle.explain import ExplainRequest, explain
from maas.lifecycle.report import ExplainedRow

Array = npt.NDArray[Any]

BATCH_ROWS = 256
BACKGROUND_ROWS = 100
REPORT_SAMPLES = 1024


class OnnxModel:
    """An ONNX file, loaded into this process."""

    def __init__(self, path: Path) -> None:
        self._session = open_session(path)
        self.inputs = [i.name for i in self._session.get_inputs()]
        self.outputs = [o.name for o in self._session.get_outputs()]

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Named inputs [n, …] → named outputs [n, …]."""
        return run_session(self._session, dict(inputs))

    def batches(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The same outputs, computed in batches of BATCH_ROWS rows to bound memory."""
        rows = len(next(iter(inputs.values())))
        parts = [
            self({name: value[i : i + BATCH_ROWS] for name, value in inputs.items()})
            for i in range(0, rows, BATCH_ROWS)
        ]
        return {name: np.concatenate([p[name] for p in parts]) for name in self.outputs}


def named_rows(signature: Signature, rows: Array) -> dict[str, Array]:
    """`rows` [n, …] as the one input of the signature, in its dtype."""
    if len(signature.inputs) != 1:
        raise InvalidInput("rows in one array need a model with one input", field="evaluation")
    spec = signature.inputs[0]
    if rows.shape[1:] != spec.shape and math.prod(rows.shape[1:]) == math.prod(spec.shape):
        rows = rows.reshape(len(rows), *spec.shape)  # estimators take flattened images
    return {spec.name: np.ascontiguousarray(rows, dtype=DATATYPES[spec.datatype].numpy)}


def predictions_of(
    path: Path,
    signature: Signature,
    task: Task,
    data: tuple[Array, Array],
    class_names: tuple[str, ...] = (),
) -> EvaluationRequest:
    """The file's predictions for `data`, which is X [n, …] and y [n], as a request to evaluate.

    Probabilities are used unchanged; other scores of a classification are logits and go through
    softmax or, for a single score, the logistic function.
    """
    x, y = data
    outputs = OnnxModel(path).batches(named_rows(signature, x))
    if task is Task.REGRESSION:
        return EvaluationRequest(
            task=task,
            y_true=y.astype(np.float64),
            y_pred=read_numbers(signature, outputs).reshape(y.shape),
            units=signature.outputs[0].units or "",
        )
    predicted, scores, names = read_classes(signature, outputs, class_names)
    class_names = names or tuple(str(i) for i in range(0 if scores is None else scores.shape[1]))
    return EvaluationRequest(
        task=task,
        y_true=class_indices_of(y, names),
        y_pred=predicted,
        y_score=scores,
        class_names=class_names,
    )


def read_numbers(signature: Signature, outputs: Mapping[str, Array]) -> npt.NDArray[np.float64]:
    """Predictions of a regression. Raises InvalidInput if no output has floating-point numbers."""
    return _first_float(signature, outputs).astype(np.float64)


def read_classes(
    signature: Signature, outputs: Mapping[str, Array], class_names: tuple[str, ...] = ()
) -> tuple[Array, npt.NDArray[np.float64] | None, tuple[str, ...]]:
    """Predictions of a classification: class [n], probabilities [n, classes] or None, and names.

    The names are `class_names` or, if that is empty, the labels of the signature, if any.
    """
    rows = len(next(iter(outputs.values())))
    if "probabilities" not in outputs and "label" in outputs:
        return outputs["label"].reshape(rows), None, class_names or _labels_of(signature, 0)
    raw = outputs.get("probabilities")
    scores = _probabilities(_first_float(signature, outputs) if raw is None else raw)
    predicted = outputs["label"].reshape(rows) if "label" in outputs else scores.argmax(axis=1)
    return predicted, scores, class_names or _labels_of(signature, scores.shape[1])


def explained_examples(
    path: Path, signature: Signature, rows: Array, count: int, background: Array | None = None
) -> tuple[ExplainedRow, ...]:
    """Explanations of the first `count` rows, for a report."""
    if len(signature.inputs) != 1 or not _explainable(signature):
        return ()
    model = OnnxModel(path)
    name = signature.inputs[0].name
    against = named_rows(signature, rows[:BACKGROUND_ROWS] if background is None else background)
    inputs = named_rows(signature, rows[:count])[name]
    examples = []
    for index, row in enumerate(rows[:count]):
        request = ExplainRequest(
            signature=signature,
            row={name: inputs[index]},
            background=against,
            samples=REPORT_SAMPLES,
        )
        explanation = explain(request, model)
        image = row if explanation.image else None
        examples.append(ExplainedRow(explanation, f"test row {index}", image))
    return tuple(examples)


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _explainable(signature: Signature) -> bool:
    floats = ("FP16", "FP32", "FP64")
    return signature.inputs[0].datatype in floats and any(
        s.datatype in floats for s in signature.outputs
    )


def _first_float(signature: Signature, outputs: Mapping[str, Array]) -> Array:
    for spec in signature.outputs:
        if outputs[spec.name].dtype.kind == "f":
            return outputs[spec.name]
    raise InvalidInput("the model has no output of floating-point numbers", field="evaluation")


def _probabilities(scores: Array) -> npt.NDArray[np.float64]:
    """Probabilities [n, classes] of scores; each row sums to 1."""
    scores = scores.astype(np.float64).reshape(len(scores), -1)
    if scores.shape[1] == 1:
        within = scores.min(initial=0) >= 0 and scores.max(initial=1) <= 1
        positive = scores if within else 0.5 * (1 + np.tanh(scores / 2))
        return np.hstack([1 - positive, positive])
    if scores.min(initial=0) >= 0 and np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        return scores
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def _labels_of(signature: Signature, classes: int) -> tuple[str, ...]:
    return next((s.labels for s in signature.outputs if len(s.labels) == classes), ())


def class_indices_of(y: Array, names: tuple[str, ...]) -> Array:
    """Class indices [n] of labels, which are indices or names. Raises InvalidInput for others."""
    if y.dtype.kind in "iub":
        return y.astype(np.int64)
    if y.dtype.kind == "f" and np.array_equal(y, np.round(y)):
        return y.astype(np.int64)
    index = {name: i for i, name in enumerate(names)}
    unknown = sorted({str(v) for v in y} - set(index))
    if unknown:
        raise InvalidInput(
            f"evaluation: y has {unknown[0]!r}, which is not a class name; the class names are "
            f"{', '.join(names) or 'not given'}",
            field="class_names",
        )
    return np.asarray([index[str(v)] for v in y], dtype=np.int64)
