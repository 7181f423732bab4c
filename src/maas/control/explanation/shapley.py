"""Between the tensors of the predict path and the arrays of `maas.lifecycle.explain`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maas.domain.errors import InferenceFailed, InvalidInput
from maas.domain.signature import Signature
from maas.lifecycle.explain import ExplainRequest, explain
from maas.runtimes.base import numpy_dtype
from maas.serving.replica.batching import from_buffer, to_column
from maas.serving.wire.json_tensors import json_to_tensors
from maas.serving.wire.tensors import Tensor, Tensors

if TYPE_CHECKING:
    from maas.control.explanation.explain import Ask, RowToExplain

MAX_BACKGROUND_ROWS = 1000

Arrays = dict[str, NDArray[Any]]


def shapley_values(
    signature: Signature, question: RowToExplain, ask: Ask, batch_rows: int
) -> dict[str, Any]:
    """`Explanation.to_dict()`. Raises InvalidInput that names the field at fault."""
    needed = [spec for spec in signature.inputs if spec.default is None]
    if all(spec.datatype == "BYTES" for spec in needed):
        raise InvalidInput(
            "what is explained are numbers; this model takes text, an image or sound",
            field="inputs",
        )
    row = _arrays(signature, question.inputs, "inputs")
    if any(len(values) != 1 for values in row.values()):
        raise InvalidInput("inputs must be one row; explain one answer at a time", field="inputs")
    background = _background(signature, question)

    def predict(inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        tensors: Tensors = {}
        rows = len(next(iter(inputs.values())))
        for spec in signature.inputs:
            column = to_column(spec, np.asarray(inputs[spec.name]))
            tensors[spec.name] = Tensor(spec.datatype, (rows, *column.shape), bytes(column.data))
        return _to_arrays(ask(tensors, rows))

    request = ExplainRequest(
        signature=signature,
        row=row,
        background=background,
        output=question.output,
        target=question.target,
        samples=question.samples,
        seed=question.seed,
        batch_rows=min(batch_rows, signature.max_rows or batch_rows),
    )
    explanation = explain(request, predict)
    if not np.isfinite([a.shapley for a in explanation.attributions]).all():
        raise InferenceFailed("the model's answers are not finite, so they cannot be explained")
    return explanation.to_dict()


def _background(signature: Signature, question: RowToExplain) -> Arrays | None:
    """Rows of the inputs that were given; others keep the explained row's value."""
    if question.background is None:
        return None
    given = tuple(s for s in signature.inputs if s.name in question.background)
    if not given:
        raise InvalidInput("background has no input of this model", field="background")
    part = Signature(given, signature.outputs)
    rows = _arrays(part, question.background, "background")
    if len(next(iter(rows.values()))) > MAX_BACKGROUND_ROWS:
        raise InvalidInput(
            f"background may have at most {MAX_BACKGROUND_ROWS} rows", field="background"
        )
    return rows


def _arrays(signature: Signature, values: dict[str, Any], field: str) -> Arrays:
    try:
        tensors, _, _ = json_to_tensors(signature, values)
    except InvalidInput as wrong:
        named = f"{field}.{wrong.details['field']}" if "field" in wrong.details else field
        raise InvalidInput(f"{field}: {wrong.message}", field=named) from None
    return _to_arrays(tensors)


def _to_arrays(tensors: Tensors) -> Arrays:
    return {
        name: from_buffer(tensor.data, numpy_dtype(tensor.datatype), tensor.shape)
        for name, tensor in tensors.items()
    }
