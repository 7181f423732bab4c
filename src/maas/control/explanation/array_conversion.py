"""Conversion between the tensors of predictions and the arrays of `maas.lifecycle.explain`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maas.control.explanation.request import PredictRows, RowToExplain
from maas.domain.errors import InferenceFailed, InvalidInput
from maas.domain.signature import Signature
from maas.lifecycle.explain import ExplainRequest, explain
from maas.runtimes.base import numpy_dtype
from maas.serving.replica.batching import from_buffer, to_column
from maas.serving.wire.json_tensors import json_to_tensors
from maas.serving.wire.tensors import Tensor, Tensors

MAX_BACKGROUND_ROWS = 1000

Arrays = dict[str, NDArray[Any]]


def shapley_values(
    signature: Signature, row: RowToExplain, predict: PredictRows, batch_rows: int
) -> dict[str, Any]:
    """`Explanation.to_dict()` of one row. Raises InvalidInput that names the invalid field."""
    required = [spec for spec in signature.inputs if spec.default is None]
    if all(spec.datatype == "BYTES" for spec in required):
        raise InvalidInput(
            "only models with numeric inputs can be explained; the inputs of this model are text, "
            "images or audio",
            field="inputs",
        )
    inputs = _arrays(signature, row.inputs, "inputs")
    counts = {len(values) for values in inputs.values()}
    if counts != {1}:
        raise InvalidInput(f"inputs must be one row; got {max(counts)}", field="inputs")

    def predict_arrays(inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        tensors: Tensors = {}
        rows = len(next(iter(inputs.values())))
        for spec in signature.inputs:
            column = to_column(spec, np.asarray(inputs[spec.name]))
            tensors[spec.name] = Tensor(spec.datatype, (rows, *column.shape), bytes(column.data))
        return _to_arrays(predict(tensors, rows))

    request = ExplainRequest(
        signature=signature,
        row=inputs,
        background=_background(signature, row),
        output=row.output,
        target=row.target,
        samples=row.samples,
        seed=row.seed,
        batch_rows=min(batch_rows, signature.max_rows or batch_rows),
    )
    explanation = explain(request, predict_arrays)
    if not np.isfinite([a.shapley for a in explanation.attributions]).all():
        raise InferenceFailed("the model's outputs are not finite, so they cannot be explained")
    return explanation.to_dict()


def _background(signature: Signature, row: RowToExplain) -> Arrays | None:
    """Background rows of some inputs; the other inputs keep the value of the explained row."""
    if row.background is None:
        return None
    specs = tuple(s for s in signature.inputs if s.name in row.background)
    if not specs:
        names = ", ".join(s.name for s in signature.inputs)
        raise InvalidInput(
            f"background must have values for at least one of the inputs {names}",
            field="background",
        )
    rows = _arrays(Signature(specs, signature.outputs), row.background, "background")
    count = len(next(iter(rows.values())))
    if count > MAX_BACKGROUND_ROWS:
        raise InvalidInput(
            f"background must have at most {MAX_BACKGROUND_ROWS} rows; got {count}",
            field="background",
        )
    return rows


def _arrays(signature: Signature, values: dict[str, Any], field: str) -> Arrays:
    try:
        tensors, _, _ = json_to_tensors(signature, values)
    except InvalidInput as error:
        path = f"{field}.{error.details['field']}" if "field" in error.details else field
        raise InvalidInput(f"{field}: {error.message}", field=path) from None
    return _to_arrays(tensors)


def _to_arrays(tensors: Tensors) -> Arrays:
    return {
        name: from_buffer(tensor.data, numpy_dtype(tensor.datatype), tensor.shape)
        for name, tensor in tensors.items()
    }
