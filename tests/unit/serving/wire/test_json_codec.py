"""JSON bodies to tensors and back, fast and in general."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from maas.domain.errors import InvalidInput, MalformedBody
from maas.domain.signature import Signature, TensorSpec
from maas.serving.wire.json_codec import JsonCodec
from maas.serving.wire.json_tensors import json_to_tensors, parse_json
from maas.serving.wire.messages import Column

VECTOR = Signature((TensorSpec("x", "FP32", (10,)),), (TensorSpec("y_pred", "FP32", (1,)),))
TABLE = Signature(
    (TensorSpec("age", "INT64"), TensorSpec("name", "BYTES"), TensorSpec("ok", "BOOL")),
    (TensorSpec("label", "INT64"), TensorSpec("p", "FP32", (2,))),
)
IMAGE = Signature((TensorSpec("x", "FP32", (1, 2, 3)),), (TensorSpec("y", "FP32", ()),))


def decode(signature: Signature, body: Any) -> tuple[list[bytes], int, bool]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    columns, _, rows, single = JsonCodec(signature).decode(raw)
    return [bytes(c) for c in columns], rows, single


def test_one_row_of_integers_is_packed_as_floats() -> None:
    columns, rows, single = decode(VECTOR, {"x": list(range(10))})
    assert (rows, single) == (1, True)
    assert columns == [struct.pack("<10f", *range(10))]


def test_the_rows_of_a_batch_are_joined() -> None:
    columns, rows, single = decode(VECTOR, {"x": [[1.5] * 10, [2.5] * 10]})
    assert (rows, single) == (2, False)
    assert columns == [struct.pack("<20f", *[1.5] * 10, *[2.5] * 10)]


def test_scalars_strings_and_booleans_are_decoded() -> None:
    columns, rows, single = decode(TABLE, {"age": 3, "name": "ü", "ok": True})
    assert (rows, single) == (1, True)
    assert columns == [struct.pack("<q", 3), b"\x02\0\0\0\xc3\xbc", b"\x01"]
    columns, rows, single = decode(TABLE, {"age": [3, 4], "name": ["a", ""], "ok": [True, False]})
    assert (rows, single) == (2, False)
    assert columns[1] == b"\x01\0\0\0a\0\0\0\0"


def test_nested_rows_keep_their_order() -> None:
    columns, _, single = decode(IMAGE, {"x": [[[1, 2, 3], [4, 5, 6]]]})
    assert single
    assert columns == [struct.pack("<6f", 1, 2, 3, 4, 5, 6)]


def test_large_batches_agree_with_the_general_way() -> None:
    rows = [[float(n), 2 * n, -n, 0.5, 1e30, -0.0, 1, 2, 3, 4] for n in range(500)]
    columns, count, single = decode(VECTOR, {"x": rows})
    general, general_count, general_single = json_to_tensors(VECTOR, {"x": rows})
    assert (count, single) == (general_count, general_single) == (500, False)
    assert columns == [general["x"].data]
    nested = [[[[1, 2, 3], [4, 5, 6]]]] * 3
    columns, count, single = decode(IMAGE, {"x": nested})
    assert (columns, count, single) == (
        [json_to_tensors(IMAGE, {"x": nested})[0]["x"].data],
        3,
        False,
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"x": [[1] * 10, [1] * 9 + [1e39]]}, "finite FP32 numbers, got 1e+39"),
        ({"x": [[1] * 10, [1] * 9 + ["1"]]}, "got '1' at element 19"),
        ({"x": [1, 2, 3, 4, 5]}, "'x': expected shape [10] or [n, 10], got [5]"),
        ({"x": [[1] * 9]}, "got [1, 9]"),
        ({"x": [[1] * 10, [1] * 9]}, "lists of different lengths at depth 2"),
        ({"x": []}, "got [0]"),
        ({"x": [[]]}, "got [1, 0]"),
        ({"x": 3}, "got []"),
        ({"x": None}, "got []"),
        ({"x": {"0": 1}}, "got []"),
        ({"x": ["1"] * 10}, "expected FP32 numbers, got '1' at element 0"),
        ({"x": [True] * 10}, "got True at element 0"),
        ({"x": [1] * 9 + [None]}, "got None at element 9"),
        ({"x": [1e39] * 10}, "finite FP32 numbers, got 1e+39"),
        ({"x": [10**400] * 10}, "finite FP32 numbers"),
        ({"y": 1, "x": [1] * 10}, "unknown field 'y'; the inputs are 'x'"),
        ({}, "field 'x' is missing"),
        ([1, 2], "must be a JSON object of inputs ('x'); got a list"),
        ("x", "got a string"),
    ],
)
def test_errors_name_the_expected_and_the_actual_value(body: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode(VECTOR, body)
    assert message in caught.value.message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"x": [NaN]}',
        b'{"x": [1e999]}',
        b'{"x": Infinity}',
        b"[" * 100_000,
        b'{"x":' * 50_000,
        b'{"x": "\xff"}',
        b"\x00",
    ],
)
def test_invalid_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        decode(VECTOR, body)


def test_a_5000_digit_integer_is_refused_with_a_short_message() -> None:
    with pytest.raises((InvalidInput, MalformedBody)) as caught:
        decode(VECTOR, b'{"x": [' + b"9" * 5000 + b",1,1,1,1,1,1,1,1,1]}")
    assert len(caught.value.message) < 300


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises((InvalidInput, MalformedBody)):
        decode(TABLE, b'{"age": 1, "name": "\\ud800", "ok": true}')


def test_integers_outside_the_datatype_are_refused() -> None:
    with pytest.raises(InvalidInput, match="whole numbers from"):
        decode(TABLE, {"age": 2**63, "name": "a", "ok": True})
    with pytest.raises(InvalidInput, match=r"got 1\.5"):
        decode(TABLE, {"age": 1.5, "name": "a", "ok": True})


def test_inputs_with_different_numbers_of_rows_are_refused() -> None:
    with pytest.raises(InvalidInput, match="all inputs must have the same number of rows"):
        decode(TABLE, {"age": [1, 2], "name": ["a"], "ok": [True, True]})


def test_a_vector_of_length_one_is_encoded_as_its_number() -> None:
    codec = JsonCodec(VECTOR)
    data = struct.pack("<2f", 0.5, 1.5)
    assert codec.encode([Column((1,), data)], 0, 1, True) == b'{"y_pred":0.5}'
    assert codec.encode([Column((1,), data)], 1, 1, True) == b'{"y_pred":1.5}'
    assert codec.encode([Column((1,), data)], 0, 2, False) == b'{"y_pred":[0.5,1.5]}'


def test_several_outputs_keep_their_shapes() -> None:
    codec = JsonCodec(TABLE)
    columns = [
        Column((), struct.pack("<2q", 1, 0)),
        Column((2,), struct.pack("<4f", 0.25, 0.75, 1, 0)),
    ]
    assert json.loads(codec.encode(columns, 0, 1, True)) == {"label": 1, "p": [0.25, 0.75]}
    assert json.loads(codec.encode(columns, 1, 1, False)) == {"label": [0], "p": [[1, 0]]}
    assert json.loads(codec.encode(columns, 0, 2, False)) == {
        "label": [1, 0],
        "p": [[0.25, 0.75], [1, 0]],
    }


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=11)
        | st.dictionaries(st.sampled_from(["x", "age", "name", "ok", "z"]), children, max_size=4)
    ),
    max_leaves=30,
)


@hypothesis.given(JSON_VALUES)
def test_the_fast_and_the_general_way_agree(value: Any) -> None:
    for signature in (VECTOR, TABLE, IMAGE):
        try:
            body = json.dumps(value, allow_nan=False).encode()
        except ValueError:
            return
        try:
            tensors, rows, single = json_to_tensors(signature, parse_json(body))
        except (InvalidInput, MalformedBody):
            with pytest.raises((InvalidInput, MalformedBody)):
                JsonCodec(signature).decode(body)
            continue
        columns, _, fast_rows, fast_single = JsonCodec(signature).decode(body)
        assert (rows, single) == (fast_rows, fast_single)
        assert [bytes(c) for c in columns] == [tensors[s.name].data for s in signature.inputs]


@hypothesis.given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=10,
                max_size=10))  # fmt: skip
def test_float32_values_are_exact(values: list[float]) -> None:
    columns, _, _ = decode(VECTOR, {"x": values})
    decoded = struct.unpack("<10f", columns[0])
    assert all(math.copysign(1, a) == math.copysign(1, b) and a == b
               for a, b in zip(decoded, values, strict=True))  # fmt: skip
