"""Conversion of inputs to JSON, and of outputs to numpy arrays."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import msgspec

from maas.domain.errors import InvalidInput


def encode_inputs(inputs: Mapping[str, Any]) -> bytes:
    """The JSON object of `inputs`.

    Values are lists, numbers, strings, bytes (an image, audio), numpy arrays, torch tensors, pandas
    columns and data frames. Raises InvalidInput, with the input, for other or not finite values.
    """
    plain = plain_inputs(inputs)
    try:
        body = msgspec.json.encode(plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"the inputs cannot be encoded as JSON: {error}") from None
    if b"null" in body:  # msgspec encodes NaN and infinity as null; this search is cheap
        for name, value in plain.items():
            _refuse_missing(name, value)
    return body


def plain_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """`inputs` with every array as nested lists."""
    if not isinstance(inputs, Mapping):
        raise InvalidInput(
            "inputs must be named, for example predict('article', x=[1, 2, 3]) or "
            f"predict('article', {{'x': [1, 2, 3]}}); got {type(inputs).__name__}"
        )
    return {str(name): _plain(value) for name, value in inputs.items()}


def as_arrays(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Every output as a numpy array: float64, int64, bool or str."""
    import numpy as np  # noqa: PLC0415 - 0.1 s, only for those who need arrays

    return {name: np.asarray(value) for name, value in outputs.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value] if any(map(_is_special, value)) else value
    if isinstance(value, (bytes, bytearray, memoryview)):  # an image, audio
        return {"b64": base64.b64encode(value).decode()}
    if not _is_array(value):
        return value
    if hasattr(value, "detach"):  # a torch tensor, maybe with a gradient or on a GPU
        value = value.detach().cpu()
    elif hasattr(value, "to_numpy"):  # a pandas or polars column or data frame
        value = value.to_numpy()
    return value.tolist()


def _is_special(value: Any) -> bool:
    return isinstance(value, (bytes, bytearray, memoryview)) or _is_array(value)


def _is_array(value: Any) -> bool:
    return hasattr(value, "tolist") or hasattr(value, "to_numpy")


def _refuse_missing(name: str, value: Any, where: str = "") -> None:
    if isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _refuse_missing(name, item, f"{where}[{i}]")
    elif value is None or (isinstance(value, float) and not math.isfinite(value)):
        raise InvalidInput(
            f"{name}{where} must be a finite number; got {value}", field=name, got=str(value)
        )
