from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from maas.client.values import as_arrays, encode_inputs
from maas.domain.errors import InvalidInput


class Tensor:
    """The methods of a torch tensor with a gradient that the SDK uses."""

    def __init__(self, values: list[float]) -> None:
        self._values, self._detached = values, False

    def detach(self) -> Tensor:
        self._detached = True
        return self

    def cpu(self) -> Tensor:
        return self

    def tolist(self) -> list[float]:
        if not self._detached:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        return self._values


class Column:
    """The methods of a pandas column that the SDK uses."""

    def to_numpy(self) -> Any:
        return np.array([1.0, 2.0])

    def tolist(self) -> list[float]:
        raise AssertionError("to_numpy is what frames have, too")


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ([1, 2.5], [1, 2.5]),
        (3, 3),
        ("text", "text"),
        (np.array([[1, 2]], dtype=np.int64), [[1, 2]]),
        (np.float32(0.5), 0.5),
        (Tensor([1.0, 2.0]), [1.0, 2.0]),
        ([np.array([1.0]), np.array([2.0])], [[1.0], [2.0]]),
        (Column(), [1.0, 2.0]),
    ],
)
def test_inputs_become_plain_json(value: Any, sent: Any) -> None:
    assert json.loads(encode_inputs({"x": value})) == {"x": sent}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), None])
def test_values_that_are_not_finite_are_refused_with_their_index(value: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^x\[1\]\[0\] must be a finite number") as caught:
        encode_inputs({"name": "null", "x": [[1.0], [value]]})
    assert caught.value.details["field"] == "x"


def test_null_in_a_string_is_not_a_missing_number() -> None:
    assert json.loads(encode_inputs({"text": "a null here"})) == {"text": "a null here"}


def test_inputs_without_names_are_refused_with_an_example() -> None:
    with pytest.raises(InvalidInput, match="inputs must be named"):
        encode_inputs([1, 2])  # type: ignore[arg-type]


def test_values_that_json_lacks_are_refused() -> None:
    with pytest.raises(InvalidInput, match="cannot be encoded as JSON"):
        encode_inputs({"x": object()})


def test_outputs_as_arrays() -> None:
    arrays = as_arrays({"y": [[1.0], [2.0]], "label": 3})
    assert arrays["y"].shape == (2, 1)
    assert arrays["label"].dtype == np.int64


def test_bytes_are_encoded_as_base64_and_keep_their_rows() -> None:
    sent = json.loads(encode_inputs({"image": b"\xff\0", "many": [b"a", bytearray(b"b")]}))
    assert sent == {"image": {"b64": "/wA="}, "many": [{"b64": "YQ=="}, {"b64": "Yg=="}]}
