"""ONNX files: sessions, signatures and inference with onnxruntime."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maas.domain.errors import InferenceFailed, InvalidInput
from maas.domain.signature import DATATYPES, Signature, TensorSpec

if TYPE_CHECKING:
    import onnxruntime

Array = npt.NDArray[Any]

FROM_NUMPY = {d.numpy: name for name, d in DATATYPES.items()}
_FROM_ONNX = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
}


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """A session with one thread. Raises InvalidInput if onnxruntime cannot load the file."""
    import onnxruntime  # noqa: PLC0415  (0.2 s)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not path.is_file():
        raise InvalidInput(f"there is no file {path}", field="model")
    try:
        return onnxruntime.InferenceSession(
            path, sess_options=options, providers=["CPUExecutionProvider"]
        )
    except _failures() as error:
        raise InvalidInput(
            f"{path.name} cannot be loaded by onnxruntime: {_short(error)}", field="model"
        ) from error


def run_session(
    session: onnxruntime.InferenceSession, inputs: dict[str, Array]
) -> dict[str, Array]:
    """Every output by name. Raises InferenceFailed with onnxruntime's message."""
    names = [output.name for output in session.get_outputs()]
    try:
        answers = session.run(names, inputs)
    except _failures() as error:
        rows = {name: list(array.shape) for name, array in inputs.items()}
        raise InferenceFailed(f"the model cannot answer for {rows}: {_short(error)}") from error
    return dict(zip(names, answers, strict=True))


def signature_of_onnx(path: Path, example: dict[str, Any] | None = None) -> Signature:
    """The signature of an ONNX file; `example` is one row per input as JSON values.

    The default example is a row of zeros. The model runs it once, so that it answers the example
    of every signature that this returns. A first dimension of 1 means one row per request
    (`max_rows` 1). Raises InvalidInput if the first dimension is missing or fixed above 1, if a
    type cannot be served, or if the example does not fit.
    """
    session = open_session(path)
    inputs, input_rows = _specs(session.get_inputs(), path.name)
    outputs, output_rows = _specs(session.get_outputs(), path.name)
    for spec, rows in zip((*inputs, *outputs), (*input_rows, *output_rows), strict=True):
        if rows not in (None, 1):
            raise InvalidInput(
                f"{path.name}: the first dimension of {spec.name} must be free (the rows of a "
                f"batch) or 1; it is fixed at {rows}. Export it again with a dynamic batch",
                field=spec.name,
            )
    max_rows = None
    if 1 in input_rows:
        max_rows = 1
    if example is None:
        example = _zeros(inputs)
    answer = run_session(session, {spec.name: _as_rows(spec, example) for spec in inputs})
    for spec in outputs:
        if np.shape(answer[spec.name])[:1] != (1,):
            raise InvalidInput(
                f"{path.name}: output {spec.name} must have a row for each row of the input; "
                f"for one row its shape is {list(np.shape(answer[spec.name]))}",
                field=spec.name,
            )
    return Signature(inputs=inputs, outputs=outputs, example=example, max_rows=max_rows)


def _specs(
    nodes: Iterable[Any], file: str
) -> tuple[tuple[TensorSpec, ...], tuple[int | None, ...]]:
    """The tensors, and the size of the first dimension of each; see `_spec`."""
    specs, rows = [], []
    for node in nodes:
        spec, count = _spec(node, file)
        specs.append(spec)
        rows.append(count)
    return tuple(specs), tuple(rows)


def _spec(node: Any, file: str) -> tuple[TensorSpec, int | None]:
    """The tensor without its first dimension, and the size of that dimension if it is fixed."""
    kind = str(node.type).removeprefix("tensor(").removesuffix(")")
    if not str(node.type).startswith("tensor(") or kind not in _FROM_ONNX:
        advice = ""
        if "map(" in str(node.type):
            advice = "; export it with zipmap=False"
        raise InvalidInput(
            f"{file}: {node.name} is a {node.type}; servable are tensors of "
            f"{', '.join(_FROM_ONNX)}{advice}",
            field=node.name,
        )
    if not node.shape:
        raise InvalidInput(
            f"{file}: {node.name} has no dimension for the rows of a batch", field=node.name
        )
    first, *rest = map(_size, node.shape)
    return TensorSpec(node.name, _FROM_ONNX[kind], tuple(rest)), None if first == -1 else first


def _size(dimension: object) -> int:
    """Size of a dimension of onnxruntime; -1 if it is free, which is a name or not positive."""
    if isinstance(dimension, int) and dimension > 0:
        return dimension
    return -1


def _zeros(specs: tuple[TensorSpec, ...]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for spec in specs:
        if -1 in spec.shape:
            raise InvalidInput(
                f"{spec.name} has a free dimension {list(spec.shape)}: an example row is needed",
                field="example",
            )
        if spec.datatype == "BYTES":
            values = np.full(spec.shape, "", dtype=object)
        else:
            values = np.zeros(spec.shape, spec.dtype.numpy)
        row[spec.name] = values.tolist()
    return row


def _as_rows(spec: TensorSpec, row: dict[str, Any]) -> Array:
    if spec.name not in row:
        raise InvalidInput(f"the example has no input {spec.name}", field="example")
    try:
        array = np.array(row[spec.name], dtype=spec.dtype.numpy)[None]
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"example: {spec.name}: {error}", field="example") from None
    shape = array.shape[1:]
    if not _fits(shape, spec.shape):
        raise InvalidInput(
            f"example: {spec.name} must have shape {list(spec.shape)}; got {list(shape)}",
            field="example",
        )
    return array


def _fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether the shapes are equal, except where `expected` is free (-1)."""
    if len(shape) != len(expected):
        return False
    return all(e in (-1, size) for size, e in zip(shape, expected, strict=True))


def _failures() -> tuple[type[Exception], ...]:
    """All exceptions of onnxruntime, whose own errors share no base class except Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # noqa: PLC0415

    failures: list[type[Exception]] = [RuntimeError, ValueError, TypeError]
    for value in vars(state).values():
        if isinstance(value, type) and issubclass(value, Exception):
            failures.append(value)
    return tuple(failures)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
