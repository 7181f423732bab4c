"""Malformed bodies of inference and explanation requests are refused with a message."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.servers.article import (
    DEEP,
    EXPLAIN,
    INFER,
    ROW,
    assert_unharmed,
    assert_works,
    refusal,
    send,
)
from tests.support.servers.maas import Stack


def inference(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "x", "shape": [1, 10], "datatype": "FP32", "data": ROW} | changes
    return {"inputs": [{k: v for k, v in tensor.items() if v is not None}]}


HUGE = 1 << 62
MALFORMED_INFERENCES: dict[str, Any] = {
    "a shape of a huge size": inference(shape=[HUGE, 10]),
    "a product beyond 64 bits": inference(shape=[HUGE, HUGE]),
    "a negative size": inference(shape=[-1, 10]),
    "no rows": inference(shape=[0, 10], data=[]),
    "many dimensions": inference(shape=[1] * 10_000),
    "a shape of text": inference(shape=["1", 10]),
    "a fraction of a row": inference(shape=[1.5, 10]),
    "another shape": inference(shape=[10]),
    "too few data": inference(data=[1, 2]),
    "too many data": inference(data=ROW * 2),
    "data of text": inference(data=["1"] * 10),
    "data of null": inference(data=[None] * 10),
    "no data": inference(data=None),
    "data that is not a list": inference(data="abc"),
    "data nested deeper than its shape": inference(data=[[[ROW]]]),
    "another datatype": inference(datatype="INT64"),
    "an unknown datatype": inference(datatype="FLOAT"),
    "another name": inference(name="z"),
    "a binary size without bytes": inference(data=None, parameters={"binary_data_size": 40}),
    "a negative binary size": inference(data=None, parameters={"binary_data_size": -40}),
    "a huge binary size": inference(data=None, parameters={"binary_data_size": HUGE}),
    "a binary size of text": inference(data=None, parameters={"binary_data_size": "40"}),
    "the input twice": {"inputs": inference()["inputs"] * 2},
    "no input": {"inputs": []},
    "no inputs": {},
    "inputs that are not a list": {"inputs": {"x": ROW}},
    "an unknown output": inference() | {"outputs": [{"name": "nothing"}]},
    "a list": [],
    "null": None,
}


@pytest.mark.parametrize("name", MALFORMED_INFERENCES)
def test_malformed_bodies_of_infer_are_refused(article: Stack, name: str) -> None:
    refusal(send(article, INFER, json.dumps(MALFORMED_INFERENCES[name]).encode()))
    assert_works(article)


DEEP_TENSOR = b'{"inputs":[{"name":"x","shape":[1,10],"datatype":"FP32","data":'
MALFORMED_INFERENCE_BYTES: dict[str, bytes] = {
    "nothing": b"",
    "deep lists": b"[" * DEEP,
    "deep objects": b'{"x":' * DEEP,
    "deep data": DEEP_TENSOR + b"[" * DEEP + b"]" * DEEP + b"}]}",
    "data 900 deep": DEEP_TENSOR + b"[" * 900 + b"]" * 900 + b"}]}",
    "deep parameters": b'{"parameters":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b',"inputs":[]}',
    "an integer of 5,000 digits": DEEP_TENSOR + b"[" + b"9" * 5000 + b",2,3,4,5,6,7,8,9,10]}]}",
    "NaN": DEEP_TENSOR + b"[NaN,2,3,4,5,6,7,8,9,10]}]}",
    "1e999": DEEP_TENSOR + b"[1e999,2,3,4,5,6,7,8,9,10]}]}",
    "1e39": DEEP_TENSOR + b"[1e39,2,3,4,5,6,7,8,9,10]}]}",
    "invalid UTF-8": b'{"inputs":[{"name":"\xff"}]}',
}


@pytest.mark.parametrize("name", MALFORMED_INFERENCE_BYTES)
def test_malformed_bytes_of_infer_are_refused(article: Stack, name: str) -> None:
    refusal(send(article, INFER, MALFORMED_INFERENCE_BYTES[name]))
    assert_works(article)


@pytest.mark.parametrize("length", ["", "-1", "0", "7", "99999999", "9" * 30, "1e1", "\xb2"])
def test_wrong_lengths_of_the_json_part_are_refused(article: Stack, length: str) -> None:
    tensor = inference(data=None, parameters={"binary_data_size": 40})
    body = json.dumps(tensor).encode() + b"\x00" * 40
    headers = {"Inference-Header-Content-Length": length,
               "Content-Type": "application/octet-stream"}  # fmt: skip
    refusal(send(article, INFER, body, headers))
    assert_works(article)


@pytest.mark.parametrize(("tail", "message"), [(39, "binary_data_size"), (41, "1 bytes follow")])
def test_binary_tensors_of_a_wrong_length_are_refused(
    article: Stack, tail: int, message: str
) -> None:
    head = json.dumps(inference(data=None, parameters={"binary_data_size": 40})).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)),
               "Content-Type": "application/octet-stream"}  # fmt: skip
    assert message in refusal(send(article, INFER, head + b"\x00" * tail, headers))
    assert send(article, INFER, head + b"\x00" * 40, headers).status == 200


MALFORMED_EXPLANATIONS: dict[str, bytes] = {
    "nothing": b"",
    "deep lists": b"[" * DEEP,
    "deep objects": b'{"inputs":' * DEEP,
    "a deep value": b'{"inputs":{"x":' + b"[" * 900 + b"]" * 900 + b"}}",
    "a wrong row": b'{"inputs":{"x":[1,2]}}',
    "rows": json.dumps({"inputs": {"x": [ROW, ROW]}}).encode(),
    "an unknown input": b'{"inputs":{"y":[1,2]}}',
    "an unknown field": json.dumps({"inputs": {"x": ROW}, "path": "/etc/passwd"}).encode(),
    "too many samples": json.dumps({"inputs": {"x": ROW}, "samples": 10**9}).encode(),
    "too few samples": json.dumps({"inputs": {"x": ROW}, "samples": -1}).encode(),
    "an unknown output": json.dumps({"inputs": {"x": ROW}, "output": "q"}).encode(),
    "an unknown target": json.dumps({"inputs": {"x": ROW}, "target": 99}).encode(),
    "a long integer": b'{"inputs":{"x":[' + b"9" * 5000 + b"]}}",
    "NaN": b'{"inputs":{"x":[NaN,2,3,4,5,6,7,8,9,10]}}',
    "1e999": b'{"inputs":{"x":[1e999,2,3,4,5,6,7,8,9,10]}}',
    "1e39": b'{"inputs":{"x":[1e39,2,3,4,5,6,7,8,9,10]}}',
    "a huge seed": json.dumps({"inputs": {"x": ROW}, "seed": 1 << 80}).encode(),
    "an empty background": json.dumps({"inputs": {"x": ROW}, "background": {}}).encode(),
    "a wrong background": json.dumps(
        {"inputs": {"x": ROW}, "background": {"x": [[1, 2]]}}
    ).encode(),
    "an empty list for a background": json.dumps(
        {"inputs": {"x": ROW}, "background": {"x": []}}
    ).encode(),
}


@pytest.mark.parametrize("name", MALFORMED_EXPLANATIONS)
def test_malformed_bodies_of_explain_are_refused(article: Stack, name: str) -> None:
    refusal(send(article, EXPLAIN, MALFORMED_EXPLANATIONS[name]))
    assert_works(article)


def test_the_server_is_unharmed(article: Stack) -> None:
    assert_unharmed(article)
