"""Tensors of deployments that the protocol calls without knowing their signature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.signature import Signature
from maas.serving.wire.json_codec import Decoded
from maas.serving.wire.json_tensors import default_tensor, flat_elements, pack
from maas.serving.wire.messages import Answers, Buffer, rows_of


def input_columns(signature: Signature, values: Mapping[str, list[Any]], rows: int) -> Decoded:
    """Encode `values`, a list of `rows` elements per scalar input.

    Raises InvalidInput for an input that the signature does not have, and for an input of the
    signature that is not scalar, or has neither a value nor a default.
    """
    for name in values:
        if signature.input(name) is None:
            raise InvalidInput(f"this deployment has no input {name!r}", field=name)
    columns: list[Buffer] = []
    for spec in signature.inputs:
        elements = values.get(spec.name)
        if spec.shape or (elements is None and spec.default is None):
            raise InvalidInput(
                f"this deployment needs the input {spec.name!r}, which the protocol does not "
                "have; call it with /predict",
                field="model",
            )
        if elements is None:
            columns.append(default_tensor(spec, rows).data)
        else:
            columns.append(pack(spec, elements))
    return Decoded(columns, ((),) * len(columns), rows)


def output_index(signature: Signature, name: str) -> int:
    """Index of the output `name`; raises InvalidInput if the signature does not have it."""
    for index, spec in enumerate(signature.outputs):
        if spec.name == name:
            return index
    raise InvalidInput(f"this deployment has no output {name!r}; call it with /predict",
                       field="model")  # fmt: skip


def prompt_tokens_of(signature: Signature, answers: Answers, first_row: int, rows: int) -> int:
    """Tokens that the runtime counted in these rows; 0 if it does not count."""
    for column, spec in zip(answers.columns, signature.outputs, strict=True):
        if spec.name == "tokens" and spec.datatype == "INT32":
            return sum(flat_elements("INT32", rows_of(column, first_row, rows, answers.total_rows)))
    return 0
