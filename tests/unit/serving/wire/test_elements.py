"""Bytes in JSON, and defaults of missing inputs."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from maas.domain.errors import InvalidInput
from maas.domain.signature import Signature, TensorSpec
from maas.serving.wire.elements import bytes_elements, element_bytes, pack_elements
from maas.serving.wire.json_tensors import json_to_tensors

IMAGE = TensorSpec("image", "BYTES")
SPEECH = Signature(
    (
        TensorSpec("audio", "BYTES"),
        TensorSpec("language", "BYTES", default=""),
        TensorSpec("temperature", "FP32", default=0.5),
        TensorSpec("translate", "BOOL", default=False),
    ),
    (TensorSpec("text", "BYTES"),),
)


def test_a_string_is_text_and_b64_is_any_bytes() -> None:
    data = bytes(range(256))
    assert element_bytes(IMAGE, "ü", 0) == "ü".encode()
    assert element_bytes(IMAGE, {"b64": base64.b64encode(data).decode()}, 0) == data
    assert element_bytes(IMAGE, {"b64": ""}, 0) == b""
    assert element_bytes(IMAGE, data, 0) == data


@pytest.mark.parametrize(
    "value",
    [{"b64": "x"}, {"b64": "eA==="}, {"b64": "e A=="}, {"b64": "ü"}, {"b64": 1}, {}, 5, None, [],
     {"b64": "eA==", "more": 1}, {"B64": "eA=="}, "\ud800"],
)  # fmt: skip
def test_other_values_are_refused_with_the_name_of_the_input(value: Any) -> None:
    with pytest.raises(InvalidInput, match="image"):
        element_bytes(IMAGE, value, 3)


def test_elements_are_stored_with_their_lengths() -> None:
    elements = [b"", b"a", bytes(300)]
    assert bytes_elements(pack_elements(elements)) == elements
    with pytest.raises(InvalidInput, match="ends within"):
        bytes_elements(pack_elements(elements)[:-1])


def test_a_missing_input_has_its_default_in_every_row() -> None:
    tensors, rows, single = json_to_tensors(
        SPEECH, {"audio": ["a", "b"], "translate": [True, True]}
    )
    assert (rows, single) == (2, False)
    assert tensors["language"].data == bytes(8)
    assert tensors["temperature"].data == struct.pack("<2f", 0.5, 0.5)
    assert tensors["translate"].data == b"\1\1"
    tensors, rows, single = json_to_tensors(SPEECH, {"audio": "a"})
    assert (rows, single) == (1, True)
    assert tensors["temperature"].shape == (1,)


@pytest.mark.parametrize("value", [{}, {"language": "en"}, {"audio": "a", "temperature": "x"},
                                   {"audio": ["a", "b"], "language": "en"}])  # fmt: skip
def test_required_inputs_must_be_present(value: Any) -> None:
    with pytest.raises(InvalidInput):
        json_to_tensors(SPEECH, value)


def test_only_an_input_without_dimensions_has_a_default() -> None:
    with pytest.raises(InvalidInput, match="default"):
        TensorSpec("x", "FP32", (3,), default=1.0)


def test_a_signature_keeps_its_defaults() -> None:
    decoded = Signature.from_dict(SPEECH.to_dict())
    assert decoded == SPEECH
    assert "default" not in SPEECH.to_dict()["inputs"][0]
