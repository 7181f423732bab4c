"""The fast path and the general way of the protocol have the same results."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from maas.domain.errors import MaasError
from maas.domain.signature import Signature, TensorSpec
from maas.gateway.oip.infer import OipCall
from maas.gateway.oip.json_fast_path import OipJsonFastPath
from maas.gateway.oip.request import decode_inputs, split
from maas.serving.wire.json_codec import Decoded
from maas.serving.wire.messages import Answers, Column


def signature(datatype: str = "FP32", shape: tuple[int, ...] = (2,)) -> Signature:
    return Signature((TensorSpec("x", datatype, shape),), (TensorSpec("y", datatype, shape),))


def general(signature: Signature, body: bytes) -> tuple[Decoded, str]:
    request = SimpleNamespace(body=body, headers={})
    message, tail = split(cast(Any, request), 1 << 20)
    return decode_inputs(signature, message, tail), message.id or ""


def body_of(data: Any, shape: list[int], datatype: str = "FP32", **more: Any) -> bytes:
    tensor = {"name": "x", "shape": shape, "datatype": datatype, "data": data}
    return json.dumps({"inputs": [tensor], **more}).encode()


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("FP32", [1, -2.5, 3e38, 1e-40]),
        ("FP64", [1e308, 0, -1e-320, 7]),
        ("FP16", [65504, -1, 0.1, 2]),
        ("INT8", [-128, 127, 0, 1]),
        ("UINT64", [2**64 - 1, 0, 1, 2]),
        ("BOOL", [True, False, True, True]),
    ],
)
def test_decoded_requests_equal_those_of_the_general_way(datatype: str, data: Any) -> None:
    model = signature(datatype)
    fast_path = OipJsonFastPath(model, "m", 1)
    for body in (body_of(data, [2, 2], datatype), body_of(data[:2], [1, 2], datatype, id="seven")):
        decoded = fast_path.decode(body)
        assert decoded is not None
        assert decoded == general(model, body)


WRONG: list[bytes] = [
    body_of([1, 2, 3], [1, 2]),
    body_of([1, 2], [2, 1]),
    body_of([1, 2], [1, 1, 2]),
    body_of([1, 2], [1]),
    body_of([1, 2], [2]),
    body_of([1, 2], []),
    body_of([], [0, 2]),
    body_of([1, 2], [-1, 2]),
    body_of([1, 2], [10**30, 2]),
    body_of([1, 2], [1, 2], "FP64"),
    body_of([1, 4e38], [1, 2]),
    body_of(["1", 2], [1, 2]),
    body_of([None, 2], [1, 2]),
    body_of([True, 2], [1, 2]),
    b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1e999,2]}]}',
    b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[NaN,2]}]}',
    b'{"inputs":[]}',
    b"{}",
    b"[",
    b"[" * 100_000,
]


@pytest.mark.parametrize("body", WRONG, ids=range(len(WRONG)))
def test_malformed_requests_are_left_to_the_general_way(body: bytes) -> None:
    model = signature()
    assert OipJsonFastPath(model, "m", 1).decode(body) is None
    with pytest.raises(MaasError):
        general(model, body)


@pytest.mark.parametrize("element", [b"128", b"-129", b"1.5", b"true", b"9" * 5000])
def test_values_that_are_no_integer_of_the_datatype_are_refused(element: bytes) -> None:
    body = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"INT8","data":[1,%b]}]}' % element
    assert OipJsonFastPath(signature("INT8"), "m", 1).decode(body) is None


@pytest.mark.parametrize(
    "body",
    [
        body_of([[1, 2], [3, 4]], [2, 2]),
        body_of([1, 2], [1, 2], parameters={"binary_data_output": True}),
        body_of([1, 2], [1, 2], outputs=[{"name": "y"}]),
        body_of([1, 2], [1, 2], id=None),
        body_of([1, 2], [1, 2], extra=1),
    ],
)
def test_unusual_requests_are_left_to_the_general_way(body: bytes) -> None:
    assert OipJsonFastPath(signature(), "m", 1).decode(body) is None
    general(signature(), body)


@pytest.mark.parametrize(
    "inputs",
    [
        (TensorSpec("x", "FP32", (2,)), TensorSpec("z", "FP32", (2,))),
        (TensorSpec("x", "FP32", (-1,)),),
        (TensorSpec("x", "BYTES", (2,)),),
    ],
)
def test_other_signatures_are_left_to_the_general_way(inputs: tuple[TensorSpec, ...]) -> None:
    fast_path = OipJsonFastPath(Signature(inputs, (TensorSpec("y", "FP32"),)), "m", 1)
    assert fast_path.decode(body_of([1, 2], [1, 2], inputs[0].datatype)) is None


@pytest.mark.parametrize(
    ("datatype", "shape", "identity"),
    [*itertools.product(("FP32", "FP64", "INT64", "UINT8"), ((), (1,), (2, 3)), ("", 'a"\n'))],
)
def test_responses_equal_those_of_the_general_way(
    datatype: str, shape: tuple[int, ...], identity: str
) -> None:
    model = signature(datatype, shape)
    dtype = {"FP32": "<f4", "FP64": "<f8", "INT64": "<i8", "UINT8": "u1"}[datatype]
    values = np.arange(4 * int(np.prod(shape)), dtype=np.float64).reshape(4, *shape)
    if datatype.startswith("FP"):
        values = values / 3
        values.flat[1] = np.nan
    answers = cast(
        Answers,
        SimpleNamespace(columns=[Column(shape, values.astype(dtype).tobytes())], total_rows=4),
    )
    call = OipCall.__new__(OipCall)
    call.target = cast(Any, SimpleNamespace(deployment="m", version=3, signature=model))
    call.id, call.rows = identity, 2
    call.fast_path = OipJsonFastPath(model, "m", 3)
    call.outputs = [(0, model.outputs[0], False)]
    expected = call.encode(answers, 1)
    call.outputs = None
    assert call.encode(answers, 1) == expected
    assert call.fast_path.encode(answers, 1, 2, identity) is not None


def test_an_answer_of_another_shape_is_left_to_the_general_way() -> None:
    columns = [Column((3,), bytes(12))]
    answers = cast(Answers, SimpleNamespace(columns=columns, total_rows=1))
    assert OipJsonFastPath(signature(), "m", 1).encode(answers, 0, 1, "") is None
