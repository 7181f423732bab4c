"""What a caller passes to `publish`, checked and converted: model, example, evaluation data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maas.domain.errors import InvalidInput, UnsafeArtifact
from maas.domain.models import Task
from maas.domain.signature import Signature, TensorSpec
from maas.lifecycle.conversion.convert import (
    Converted,
    TensorNames,
    sklearn_to_onnx,
    torch_to_onnx,
)
from maas.lifecycle.evaluate import Evaluation
from maas.lifecycle.measure import OnnxModel
from maas.lifecycle.model_types import (
    as_lists,
    is_estimator,
    is_torch_module,
    table_to_array,
    tensor_to_array,
)

Array = npt.NDArray[Any]

UNSAFE = (".pt", ".pth", ".pkl", ".pickle", ".joblib", ".bin", ".ckpt", ".npy", ".h5", ".keras")
PARITY_ROWS = 64


@dataclass(frozen=True)
class PublishOptions:
    """The arguments of `client.publish` besides the model."""

    name: str
    example: Any = None
    evaluation: Any = None
    """(X, y), or an Evaluation."""
    task: str | None = None
    feature_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    description: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    def normalized(self) -> PublishOptions:
        """The same with names as text and metadata as JSON values. Raises InvalidInput."""
        return replace(
            self,
            feature_names=tuple(str(name) for name in self.feature_names),
            class_names=tuple(str(name) for name in self.class_names),
            metadata={str(k): _json_value(v, f"metadata.{k}") for k, v in self.metadata.items()},
        )


def checked_onnx(path: Path) -> Path:
    """Raises UnsafeArtifact for a pickle-based file, InvalidInput unless it is an ONNX file."""
    if path.suffix.lower() in UNSAFE:
        raise UnsafeArtifact(
            f"{path.name} can run code when it is loaded, so it is not published as it is. Load "
            "it yourself, where you trust it, and pass the model: client.publish(model, "
            "name=…, example=…) converts it to ONNX on your side",
            field="model",
        )
    if path.suffix.lower() != ".onnx":
        raise InvalidInput(
            "model must be an nn.Module, a scikit-learn estimator, the result of a build or the "
            f"path of an .onnx file; got {path.name!r}",
            field="model",
        )
    if not path.is_file():
        raise InvalidInput(f"there is no file {path}", field="model")
    return path


def convert(model: Any, options: PublishOptions, rows: Array | None, path: Path) -> Converted:
    """Writes a module or an estimator to `path` as ONNX.

    `rows`: the evaluation's rows [n, …] if there are any. Raises InvalidInput for a model of
    another type or a missing example, InferenceFailed if the file differs from the model.
    """
    if is_torch_module(model):
        inputs = _example_inputs(options.example, rows)
        return torch_to_onnx(
            model, list(inputs.values()), path, list(inputs), list(options.output_names)
        )
    if is_estimator(model):
        (name, example), *more = _example_inputs(options.example, rows).items()
        if more:
            raise InvalidInput("a scikit-learn estimator has one input", field="example")
        names = TensorNames(
            input=name,
            output=options.output_names[0] if options.output_names else TensorNames.output,
            features=options.feature_names,
            classes=options.class_names,
        )
        return sklearn_to_onnx(model, example.reshape(-1, example.shape[-1]), path, names)
    raise InvalidInput(
        "model must be an nn.Module, a fitted scikit-learn estimator, the result of a build or the "
        f"path of an .onnx file; got {type(model).__name__}",
        field="model",
    )


def example_row(path: Path, example: Any, rows: Array | None) -> dict[str, Any] | None:
    """One JSON row per input of an ONNX file; None: the signature gets a generated example."""
    names = OnnxModel(path).inputs
    if isinstance(example, Mapping):
        return {str(name): as_lists(value) for name, value in example.items()}
    if len(names) == 1:
        if example is not None:
            return {names[0]: as_lists(example)}
        if rows is not None:
            return {names[0]: rows[0].tolist()}
    elif example is not None:
        raise InvalidInput(f"name the example's inputs: {', '.join(names)}", field="example")
    return None


def evaluation_rows(evaluation: Any) -> tuple[Array | None, Array | None]:
    """X [n, …] and y [n] of `evaluation`; (None, None) if it holds no rows."""
    if evaluation is None or isinstance(evaluation, Evaluation):
        return None, None
    if not isinstance(evaluation, Sequence) or len(evaluation) != 2:
        raise InvalidInput("evaluation must be (X, y) or an Evaluation", field="evaluation")
    rows = _batch(table_to_array(evaluation[0]))
    labels = np.asarray(tensor_to_array(evaluation[1]))
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if len(rows) != len(labels):
        raise InvalidInput(
            f"evaluation: X has {len(rows)} rows and y has {len(labels)}", field="evaluation"
        )
    return rows, labels


def task_of_options(options: PublishOptions, converted: Task | None, labels: Array | None) -> Task:
    """The task that the caller names, else that of the conversion, else that of the labels."""
    if options.task is not None:
        try:
            return Task(options.task)
        except ValueError:
            raise InvalidInput(
                f"task must be one of {', '.join(Task)}; got {options.task!r}", field="task"
            ) from None
    if converted is not None and converted is not Task.OTHER:
        return converted
    if options.class_names:
        return Task.BINARY if len(options.class_names) == 2 else Task.MULTICLASS
    if labels is None:
        return Task.OTHER
    if labels.dtype.kind == "f":
        return Task.REGRESSION
    return Task.BINARY if len(np.unique(labels)) <= 2 else Task.MULTICLASS


def labelled(signature: Signature, options: PublishOptions) -> Signature:
    """`signature` with feature and class names on the tensors whose last dimension they fit."""

    def named(spec: TensorSpec, names: tuple[str, ...]) -> TensorSpec:
        fits = names and spec.shape and spec.shape[-1] == len(names) and not spec.labels
        return replace(spec, labels=names) if fits else spec

    return replace(
        signature,
        inputs=tuple(named(s, options.feature_names) for s in signature.inputs),
        outputs=tuple(named(s, options.class_names) for s in signature.outputs),
    )


def _json_value(value: Any, where: str) -> Any:
    """`value` as a JSON value; NumPy scalars and arrays become numbers and lists."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(k): _json_value(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(v, f"{where}[{at}]") for at, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(f"{where} must be finite; got {value}", field=where)
    if value is None or isinstance(value, str | int | float):
        return value
    raise InvalidInput(
        f"{where} must be text, a number, a list or a mapping of these; got {type(value).__name__}",
        field=where,
    )


def _example_inputs(example: Any, rows: Array | None) -> dict[str, Array]:
    """Named batches [n, …] to convert with.

    They are the evaluation's rows if there are any, else the example: one row if it has one
    dimension, a batch of rows if it has more.
    """
    if isinstance(example, Mapping):
        batches = {str(name): _batch(value) for name, value in example.items()}
        if rows is not None and len(batches) == 1:
            return dict.fromkeys(batches, rows[:PARITY_ROWS])
        return batches
    if rows is not None:
        return {"x": rows[:PARITY_ROWS]}
    if example is None:
        raise InvalidInput(
            "an example row is needed to convert the model, for example example=[1, 2, 3] or "
            "example={'x': [1, 2, 3]}",
            field="example",
        )
    return {"x": _batch(example)}


def _batch(value: Any) -> Array:
    """[n, …]: lists become FP32, arrays keep their dtype except that FP64 becomes FP32."""
    value = tensor_to_array(value)
    array = value if isinstance(value, np.ndarray) else np.asarray(value, dtype=np.float32)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    return array[None] if array.ndim <= 1 else array
