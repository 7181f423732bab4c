"""ONNX files: sessions, signatures and inference with onnxruntime."""

from __future__ import annotations

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
    inputs = [_spec(node, path.name) for node in session.get_inputs()]
    outputs = [_spec(node, path.name) for node in session.get_outputs()]
    fixed = any(rows == 1 for _, rows in inputs)
    for spec, rows in [*inputs, *outputs]:
        if rows not in (None, 1):
            raise InvalidInput(
                f"{path.name}: the first dimension of {spec.name} must be free (the rows of a "
                f"batch) or 1; it is fixed at {rows}. Export it again with a dynamic batch",
                field=spec.name,
            )
    specs = tuple(spec for spec, _ in inputs)
    row = _zeros(specs) if example is None else example
    answer = run_session(session, {s.name: _as_rows(s, row) for s in specs})
    for spec, _ in outputs:
        if np.shape(answer[spec.name])[:1] != (1,):
            raise InvalidInput(
                f"{path.name}: output {spec.name} must have a row for each row of the input; "
                f"for one row its shape is {list(np.shape(answer[spec.name]))}",
                field=spec.name,
            )
    return Signature(
        inputs=specs,
        outputs=tuple(spec for spec, _ in outputs),
        example=row,
        max_rows=1 if fixed else None,
    )


def _spec(node: Any, file: str) -> tuple[TensorSpec, int | None]:
    """The tensor without its first dimension, and the size of that dimension if it is fixed."""
    kind = str(node.type).removeprefix("tensor(").removesuffix(")")
    if not str(node.type).startswith("tensor(") or kind not in _FROM_ONNX:
        advice = "; export it with zipmap=False" if "map(" in str(node.type) else ""
        raise InvalidInput(
            f"{file}: {node.name} is a {node.type}; servable are tensors of "
            f"{', '.join(_FROM_ONNX)}{advice}",
            field=node.name,
        )
    if not node.shape:
        raise InvalidInput(
            f"{file}: {node.name} has no dimension for the rows of a batch", field=node.name
        )
    first, *rest = (d if isinstance(d, int) and d > 0 else None for d in node.shape)
    shape = tuple(-1 if d is None else d for d in rest)
    return TensorSpec(node.name, _FROM_ONNX[kind], shape), first


def _zeros(specs: tuple[TensorSpec, ...]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for spec in specs:
        if -1 in spec.shape:
            raise InvalidInput(
                f"{spec.name} has a free dimension {list(spec.shape)}: an example row is needed",
                field="example",
            )
        empty = "" if spec.datatype == "BYTES" else spec.dtype.numpy
        row[spec.name] = (
            np.full(spec.shape, "", dtype=object) if empty == "" else np.zeros(spec.shape, empty)
        ).tolist()
    return row


def _as_rows(spec: TensorSpec, row: dict[str, Any]) -> Array:
    if spec.name not in row:
        raise InvalidInput(f"the example has no input {spec.name}", field="example")
    try:
        array = np.array(row[spec.name], dtype=spec.dtype.numpy)[None]
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"example: {spec.name}: {error}", field="example") from None
    expected = spec.shape
    got = array.shape[1:]
    if len(got) != len(expected) or any(
        e not in (-1, g) for e, g in zip(expected, got, strict=True)
    ):
        raise InvalidInput(
            f"example: {spec.name} must have shape {list(expected)}; got {list(got)}",
            field="example",
        )
    return array


def _failures() -> tuple[type[Exception], ...]:
    """All exceptions of onnxruntime, whose own errors share no base class except Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # noqa: PLC0415

    own = [kind for kind in vars(state).values() if isinstance(kind, type)]
    return (RuntimeError, ValueError, TypeError, *(k for k in own if issubclass(k, Exception)))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
