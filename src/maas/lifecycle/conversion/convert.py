"""Conversion of a trained model to one ONNX file whose outputs are compared with the model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maas.domain.errors import InvalidInput
from maas.domain.models import Task
from maas.domain.signature import Signature, TensorSpec
from maas.lifecycle.conversion.onnx_files import (
    FROM_NUMPY,
    open_session,
    run_session,
    signature_of_onnx,
)
from maas.lifecycle.conversion.parity import check_parity
from maas.lifecycle.model_types import is_tensor, predicts_probabilities

if TYPE_CHECKING:
    import torch

__all__ = ["Converted", "TensorNames", "signature_of_onnx", "sklearn_to_onnx", "torch_to_onnx"]

Array = npt.NDArray[Any]

MOST_PARITY_ROWS = 1000


@dataclass(frozen=True)
class TensorNames:
    """Names, labels and units of a model's tensors in its signature."""

    input: str = "x"
    output: str = "prediction"
    """Name of a regression's output; a classification has `label` and `probabilities`."""
    features: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    input_units: str | None = None
    output_units: str | None = None


@dataclass(frozen=True)
class Converted:
    path: Path
    signature: Signature
    parity: dict[str, Any]
    """{max_abs_diff, max_rel_diff, rows, tolerance, passed}"""
    task: Task
    """The task that the outputs indicate."""


def torch_to_onnx(
    module: torch.nn.Module,
    example_rows: Sequence[Array],
    path: Path,
    input_names: Sequence[str] = ("x",),
    output_names: Sequence[str] = (),
) -> Converted:
    """Writes `module` to `path` and compares both on `example_rows`, one array [n, …] per input.

    Without `output_names` the outputs have the keys of the dict that the module returns, or
    `output`, or `output_0`, `output_1`, …. Floating-point rows are float32 unless the module's
    weights are float64. Raises InvalidInput if torch cannot export the module or an output does
    not have one row per input row, InferenceFailed if the file's outputs differ.
    """
    import torch  # noqa: PLC0415  (2 s)

    from maas.lifecycle.conversion.torch_export import export_torch  # noqa: PLC0415

    arrays = _checked_rows(module, example_rows, input_names)
    was_training = module.training
    module.eval()
    try:
        try:
            with torch.no_grad():
                answer = module(*(torch.from_numpy(rows) for rows in arrays))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise _cannot_answer(module, arrays, error) from error
        expected = _named_outputs(answer, output_names, len(arrays[0]))
        doubled = [np.concatenate([rows, rows])[: max(2, len(rows))] for rows in arrays]
        few = [torch.from_numpy(rows[:2]) for rows in doubled]
        export_torch(module, few, path, input_names, tuple(expected))
    finally:
        module.train(was_training)
    inputs = dict(zip(input_names, arrays, strict=True))
    return _checked(path, inputs, expected)


def sklearn_to_onnx(
    estimator: Any, example_rows: Array, path: Path, names: TensorNames | None = None
) -> Converted:
    """Writes a fitted estimator or Pipeline to `path` and compares both on rows [n, features].

    A classifier has the outputs `label`, an index in `estimator.classes_`, and `probabilities` if
    it predicts them. Raises InvalidInput if skl2onnx does not support a step, InferenceFailed if
    the file's outputs differ.
    """
    from maas.lifecycle.conversion.sklearn_export import class_names, export_sklearn  # noqa: PLC0415

    names = names or TensorNames()
    rows = np.ascontiguousarray(example_rows, dtype=np.float32)[:MOST_PARITY_ROWS]
    if rows.ndim != 2 or not len(rows):
        raise InvalidInput(
            f"example rows must be [n, features]; got shape {list(rows.shape)}", field="example"
        )
    classes = getattr(estimator, "classes_", None)
    try:
        predicted = np.asarray(estimator.predict(rows))
    except (ValueError, TypeError) as error:
        raise _cannot_answer(estimator, [rows], error) from error
    if classes is None:
        expected = {names.output: predicted.reshape(len(rows), -1).astype(np.float32)}
    else:
        expected = {"label": np.searchsorted(classes, predicted).astype(np.int64)}
        if predicts_probabilities(estimator):
            expected["probabilities"] = estimator.predict_proba(rows).astype(np.float32)
        if not names.classes:
            names = replace(names, classes=class_names(classes))
    export_sklearn(estimator, rows.shape[1], path, names.input, tuple(expected))
    return named(_checked(path, {names.input: rows}, expected), names)


def named(converted: Converted, names: TensorNames) -> Converted:
    """`converted` with labels, units and descriptions in its signature."""
    signature = converted.signature

    def described(spec: TensorSpec) -> TensorSpec:
        if spec.name == "label" and names.classes:
            return replace(spec, description="index of the predicted class")
        if spec.name == "probabilities":
            return replace(spec, labels=names.classes)
        return replace(spec, units=names.output_units)

    x = replace(signature.inputs[0], labels=names.features, units=names.input_units)
    outputs = tuple(described(spec) for spec in signature.outputs)
    return replace(converted, signature=replace(signature, inputs=(x,), outputs=outputs))


def one_row(inputs: Mapping[str, Array]) -> dict[str, Any]:
    """The first row of each input as JSON values, with the shortest exact decimals."""

    def plain(row: Array) -> Any:
        if row.dtype.kind != "f":
            return row.tolist()
        return np.array([float(str(v)) for v in row.ravel()]).reshape(row.shape).tolist()

    return {name: plain(rows[0]) for name, rows in inputs.items()}


def task_of(signature: Signature) -> Task:
    """The task that the names and shapes of the outputs indicate."""
    outputs = {spec.name: spec for spec in signature.outputs}
    if "probabilities" in outputs:
        shape = outputs["probabilities"].shape
        return Task.BINARY if shape == (2,) else Task.MULTICLASS
    is_number = len(outputs) == 1 and next(iter(outputs.values())).shape in ((), (1,))
    return Task.REGRESSION if is_number and "label" not in outputs else Task.OTHER


def _checked(path: Path, inputs: dict[str, Array], expected: dict[str, Array]) -> Converted:
    """The file at `path` with its signature. Raises InferenceFailed if its outputs differ."""
    session = open_session(path)
    parity = check_parity(expected, lambda rows: run_session(session, rows), inputs)
    signature = Signature(
        inputs=tuple(_spec(name, rows) for name, rows in inputs.items()),
        outputs=tuple(_spec(name, rows) for name, rows in expected.items()),
        example=one_row(inputs),
    )
    declared = signature_of_onnx(path, signature.example)
    sizes = {spec.name: spec.shape for spec in declared.inputs}
    free = tuple(replace(spec, shape=sizes[spec.name]) for spec in signature.inputs)
    signature = replace(signature, inputs=free)
    return Converted(path, signature, parity, task_of(signature))


def _spec(name: str, rows: Array) -> TensorSpec:
    datatype = FROM_NUMPY.get(rows.dtype.name)
    if datatype is None:
        raise InvalidInput(f"{name}: {rows.dtype} cannot be served", field=name)
    return TensorSpec(name, datatype, tuple(rows.shape[1:]))


def _checked_rows(
    module: torch.nn.Module, example_rows: Sequence[Array], names: Sequence[str]
) -> list[Array]:
    if len(example_rows) != len(names):
        raise InvalidInput(
            f"example rows are needed for {len(names)} inputs ({', '.join(names)}); "
            f"got {len(example_rows)}",
            field="example",
        )
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    precision = np.float64 if weight is not None and weight.element_size() == 8 else np.float32
    arrays = []
    for name, rows in zip(names, example_rows, strict=True):
        array = np.ascontiguousarray(rows)[:MOST_PARITY_ROWS]
        if array.dtype.kind == "f":
            array = array.astype(precision)
        if not array.ndim or not len(array) or len(array) != len(example_rows[0][: len(array)]):
            raise InvalidInput(
                f"{name}: example rows must be [n, …] with n ≥ 1, the same for every input; "
                f"got shape {list(array.shape)}",
                field="example",
            )
        arrays.append(array)
    return arrays


def _cannot_answer(model: Any, rows: Sequence[Array], error: Exception) -> InvalidInput:
    shapes = ", ".join(f"{array.dtype}{list(array.shape)}" for array in rows)
    text = " ".join(str(error).split())[:300]
    return InvalidInput(
        f"{type(model).__name__} cannot answer example rows of {shapes}: {text}", field="example"
    )


def _named_outputs(answer: Any, names: Sequence[str], rows: int) -> dict[str, Array]:
    """The module's outputs by name, each [n, …]."""
    if isinstance(answer, dict):
        default_names, tensors = [str(key) for key in answer], list(answer.values())
    elif isinstance(answer, tuple | list):
        default_names, tensors = [f"output_{i}" for i in range(len(answer))], list(answer)
    else:
        default_names, tensors = ["output"], [answer]
    if names and len(names) != len(tensors):
        raise InvalidInput(
            f"{len(names)} outputs are named ({', '.join(names)}); the module returns "
            f"{len(tensors)}",
            field="outputs",
        )
    outputs: dict[str, Array] = {}
    for name, tensor in zip(names or default_names, tensors, strict=True):
        if not is_tensor(tensor) or not tensor.ndim or len(tensor) != rows:
            shape = list(getattr(tensor, "shape", ())) or type(tensor).__name__
            raise InvalidInput(
                f"output {name} must be a tensor with one row for each of the {rows} rows of "
                f"the input; got {shape}",
                field="outputs",
            )
        outputs[name] = tensor.detach().numpy()
    return outputs
