"""The quick way and the explicit way through the protocol must say the same."""

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
from maas.gateway.oip.request import decoded_inputs, split
from maas.serving.wire.codec import Decoded
from maas.serving.wire.messages import Answers, Column


def signature(datatype: str = "FP32", shape: tuple[int, ...] = (2,)) -> Signature:
    return Signature((TensorSpec("x", datatype, shape),), (TensorSpec("y", datatype, shape),))


def explicit(made: Signature, body: bytes) -> tuple[Decoded, str]:
    request = SimpleNamespace(body=body, headers={})
    asked, tail = split(cast(Any, request), 1 << 20)
    return decoded_inputs(made, asked, tail), asked.id or ""


def asked(data: Any, shape: list[int], datatype: str = "FP32", **more: Any) -> bytes:
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
def test_what_is_taken_is_what_the_explicit_way_makes_of_it(datatype: str, data: Any) -> None:
    made = signature(datatype)
    quick = OipJsonFastPath(made, "m", 1)
    for body in (asked(data, [2, 2], datatype), asked(data[:2], [1, 2], datatype, id="seven")):
        found = quick.decode(body)
        assert found is not None
        assert found == explicit(made, body)


WRONG: list[bytes] = [
    asked([1, 2, 3], [1, 2]),
    asked([1, 2], [2, 1]),
    asked([1, 2], [1, 1, 2]),
    asked([1, 2], [1]),
    asked([1, 2], [2]),
    asked([1, 2], []),
    asked([], [0, 2]),
    asked([1, 2], [-1, 2]),
    asked([1, 2], [10**30, 2]),
    asked([1, 2], [1, 2], "FP64"),
    asked([1, 4e38], [1, 2]),
    asked(["1", 2], [1, 2]),
    asked([None, 2], [1, 2]),
    asked([True, 2], [1, 2]),
    b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1e999,2]}]}',
    b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[NaN,2]}]}',
    b'{"inputs":[]}',
    b"{}",
    b"[",
    b"[" * 100_000,
]


@pytest.mark.parametrize("body", WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_left_to_the_explicit_way(body: bytes) -> None:
    made = signature()
    assert OipJsonFastPath(made, "m", 1).decode(body) is None
    with pytest.raises(MaasError):
        explicit(made, body)


@pytest.mark.parametrize("element", [b"128", b"-129", b"1.5", b"true", b"9" * 5000])
def test_no_integer_of_the_datatype(element: bytes) -> None:
    body = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"INT8","data":[1,%b]}]}' % element
    assert OipJsonFastPath(signature("INT8"), "m", 1).decode(body) is None


@pytest.mark.parametrize(
    "body",
    [
        asked([[1, 2], [3, 4]], [2, 2]),
        asked([1, 2], [1, 2], parameters={"binary_data_output": True}),
        asked([1, 2], [1, 2], outputs=[{"name": "y"}]),
        asked([1, 2], [1, 2], id=None),
        asked([1, 2], [1, 2], extra=1),
    ],
)
def test_what_is_unusual_is_left_to_the_explicit_way(body: bytes) -> None:
    assert OipJsonFastPath(signature(), "m", 1).decode(body) is None
    explicit(signature(), body)


@pytest.mark.parametrize(
    "inputs",
    [
        (TensorSpec("x", "FP32", (2,)), TensorSpec("z", "FP32", (2,))),
        (TensorSpec("x", "FP32", (-1,)),),
        (TensorSpec("x", "BYTES", (2,)),),
    ],
)
def test_other_signatures_are_left_to_the_explicit_way(inputs: tuple[TensorSpec, ...]) -> None:
    quick = OipJsonFastPath(Signature(inputs, (TensorSpec("y", "FP32"),)), "m", 1)
    assert quick.decode(asked([1, 2], [1, 2], inputs[0].datatype)) is None


@pytest.mark.parametrize(
    ("datatype", "shape", "identity"),
    [*itertools.product(("FP32", "FP64", "INT64", "UINT8"), ((), (1,), (2, 3)), ("", 'a"\n'))],
)
def test_answers_are_those_of_the_explicit_way(
    datatype: str, shape: tuple[int, ...], identity: str
) -> None:
    made = signature(datatype, shape)
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
    call.target = cast(Any, SimpleNamespace(deployment="m", version=3, signature=made))
    call.id, call.rows = identity, 2
    call.quick = OipJsonFastPath(made, "m", 3)
    call.wanted = [(0, made.outputs[0], False)]
    slow = call.encode(answers, 1)
    call.wanted = None
    assert call.encode(answers, 1) == slow
    assert call.quick.encode(answers, 1, 2, identity) is not None


def test_an_answer_of_another_shape_is_left_to_the_explicit_way() -> None:
    columns = [Column((3,), bytes(12))]
    answers = cast(Answers, SimpleNamespace(columns=columns, total_rows=1))
    assert OipJsonFastPath(signature(), "m", 1).encode(answers, 0, 1, "") is None
