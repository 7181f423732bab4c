"""The article's network over HTTP: right answers, and a sentence for every body that is wrong."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.support.clients import raw_http
from tests.support.servers.maas import Stack, running

LIMIT = 32 << 20
JSON_LIMIT = 8 << 20
"""Of `/predict`, where reading a body holds up everybody else."""
ROW = list(range(1, 11))
PREDICT = "/predict/article"
INFER = "/v2/models/article/infer"
EXPLAIN = "/explain/article"
LIMITS = ((PREDICT, JSON_LIMIT), (INFER, LIMIT))
DEEP = 100_000


def network() -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 1)).eval()


def computed(rows: list[list[float]]) -> list[float]:
    with torch.no_grad():
        values: list[float] = network()(torch.tensor(rows, dtype=torch.float32))[:, 0].tolist()
    return values


@pytest.fixture(scope="module")
def article(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A server that serves the network as `article`."""
    home: Path = tmp_path_factory.mktemp("h")
    with running(home, {"MAAS_SERVER__MAX_BODY_BYTES": str(LIMIT)}) as stack:
        client = stack.client()
        client.publish(network(), name="article", example={"x": [float(v) for v in ROW]})
        client.deploy("article")
        yield stack


def send(
    stack: Stack, target: str, body: bytes, headers: dict[str, str] | None = None
) -> raw_http.Answer:
    """POSTs these bytes as JSON, unless `headers` say otherwise ('' leaves one out)."""
    named = {
        "Host": f"127.0.0.1:{stack.port}",
        "Authorization": f"Bearer {stack.token}",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
    } | (headers or {})
    sent = raw_http.head("POST", target, {k: v for k, v in named.items() if v}) + body
    answer = raw_http.exchange(stack.port, sent)
    assert answer is not None, "no answer"
    return answer


def refused(answer: raw_http.Answer) -> str:
    """Asserts a refusal that says why; returns the sentence."""
    assert 400 <= answer.status < 500, (answer.status, answer.body[:300])
    assert " " in answer.sentence
    assert len(answer.sentence) < 1000
    return answer.sentence


def still_right(stack: Stack) -> None:
    answer = send(stack, PREDICT, json.dumps({"x": ROW}).encode())
    assert answer.status == 200, answer.body
    (value,) = answer.json().values()
    assert value == pytest.approx(computed([[float(v) for v in ROW]])[0], abs=1e-5)


# -- right answers ------------------------------------------------------------------------------


def test_one_row_equals_torch(article: Stack) -> None:
    row = [0.1 * v - 0.4 for v in ROW]
    for sent in (row, ROW, [float(v) for v in ROW]):
        answer = send(article, PREDICT, json.dumps({"x": sent}).encode())
        assert answer.status == 200
        (value,) = answer.json().values()
        assert isinstance(value, float)
        assert value == pytest.approx(computed([[float(v) for v in sent]])[0], abs=1e-5)


def test_a_batch_of_rows_gives_a_list(article: Stack) -> None:
    torch.manual_seed(1)
    rows: list[list[float]] = torch.randn(257, 10).tolist()
    answer = send(article, PREDICT, json.dumps({"x": rows}).encode())
    assert answer.status == 200
    (values,) = answer.json().values()
    assert values == pytest.approx(computed(rows), abs=1e-5)
    one = send(article, PREDICT, json.dumps({"x": rows[:1]}).encode()).json()
    (values,) = one.values()
    assert values == pytest.approx(computed(rows[:1]), abs=1e-5)


def test_the_path_without_a_name_is_the_default_deployment(article: Stack) -> None:
    answer = send(article, "/predict", json.dumps({"x": ROW}).encode())
    assert answer.status == 200
    assert answer.json() == send(article, PREDICT, json.dumps({"x": ROW}).encode()).json()


def test_the_sdk_gives_the_same(article: Stack) -> None:
    client = article.client()
    (value,) = client.predict("article", {"x": ROW}).values()
    assert value == pytest.approx(computed([[float(v) for v in ROW]])[0], abs=1e-5)


def test_a_body_in_chunks_is_a_body(article: Stack) -> None:
    body = raw_http.chunked(json.dumps({"x": ROW}).encode(), 7)
    answer = send(article, PREDICT, body, {"Content-Length": "", "Transfer-Encoding": "chunked"})
    assert answer.status == 200
    still_right(article)


# -- bodies that are wrong ----------------------------------------------------------------------


def test_a_row_of_the_wrong_length_is_refused_in_the_promised_words(article: Stack) -> None:
    answer = send(article, PREDICT, b'{"x":[1,2,3,4,5]}')
    assert answer.status == 422
    problem = answer.json()
    assert "field 'x'" in problem["detail"]
    assert "expected shape [10] or [n, 10]" in problem["detail"]
    assert "got [5]" in problem["detail"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["status"] == 422
    still_right(article)


WRONG_VALUES: dict[str, tuple[bytes, str]] = {
    "unknown field": (b'{"x":[1,2,3,4,5,6,7,8,9,10],"z":1}', "'z'"),
    "only an unknown field": (b'{"y":[1,2,3,4,5,6,7,8,9,10]}', "'y'"),
    "missing field": (b"{}", "'x'"),
    "NaN": (b'{"x":[NaN,2,3,4,5,6,7,8,9,10]}', "JSON"),
    "Infinity": (b'{"x":[Infinity,2,3,4,5,6,7,8,9,10]}', "JSON"),
    "beyond every float": (b'{"x":[1e999,2,3,4,5,6,7,8,9,10]}', ""),
    "beyond a 32-bit float": (b'{"x":[1e39,2,3,4,5,6,7,8,9,10]}', "'x'"),
    "a string": (b'{"x":["1",2,3,4,5,6,7,8,9,10]}', "'x'"),
    "all strings": (b'{"x":["a","b","c","d","e","f","g","h","i","j"]}', "'x'"),
    "a string for a row": (b'{"x":"1234567890"}', "'x'"),
    "null": (b'{"x":null}', "'x'"),
    "null in a row": (b'{"x":[null,2,3,4,5,6,7,8,9,10]}', "'x'"),
    "true in a row": (b'{"x":[true,2,3,4,5,6,7,8,9,10]}', "'x'"),
    "an object in a row": (b'{"x":[{},2,3,4,5,6,7,8,9,10]}', "'x'"),
    "a number for a row": (b'{"x":1}', "'x'"),
    "an empty row": (b'{"x":[]}', "'x'"),
    "empty rows": (b'{"x":[[],[]]}', "'x'"),
    "rows of different lengths": (b'{"x":[[1,2,3,4,5,6,7,8,9,10],[1,2]]}', "'x'"),
    "a row among numbers": (b'{"x":[1,[2],3,4,5,6,7,8,9,10]}', "'x'"),
    "one level too many": (b'{"x":[[[1,2,3,4,5,6,7,8,9,10]]]}', "'x'"),
    "a list for a body": (b"[1,2,3]", "object"),
    "a number for a body": (b"7", "object"),
    "null for a body": (b"null", "object"),
    "no body": (b"", ""),
    "a space": (b" ", ""),
    "two values": (b'{"x":[1,2,3,4,5,6,7,8,9,10]}{}', ""),
    "an open object": (b'{"x":[1,2,3,4,5,6,7,8,9,10]', ""),
    "a comma at the end": (b'{"x":[1,2,3,4,5,6,7,8,9,10,]}', ""),
    "single quotes": (b"{'x':[1]}", ""),
    "invalid UTF-8": (b'{"x\xff":[1]}', ""),
    "invalid UTF-8 in a string": (b'{"x":"\xc3\x28"}', ""),
    "half of a surrogate pair": (b'{"\\ud800":[1]}', ""),
    "a NUL": (b'{"x":[1,2,3,4,5,6,7,8,9,10]\x00}', ""),
    "UTF-16": ('{"x":[1]}'.encode("utf-16"), ""),
    "a byte order mark": (b'\xef\xbb\xbf{"x":[1,2,3,4,5,6,7,8,9,10]}', ""),
    "an integer of 5,000 digits": (b'{"x":[' + b"9" * 5000 + b",2,3,4,5,6,7,8,9,10]}", ""),
    "a negative one": (b'{"x":[-' + b"9" * 5000 + b",2,3,4,5,6,7,8,9,10]}", ""),
    "an exponent of 5,000 digits": (b'{"x":[1e' + b"9" * 5000 + b",2,3,4,5,6,7,8,9,10]}", ""),
    "lists 100,000 deep": (b"[" * DEEP, ""),
    "closed lists 100,000 deep": (b"[" * DEEP + b"]" * DEEP, ""),
    "objects 100,000 deep": (b'{"x":' * DEEP, ""),
    "closed objects 100,000 deep": (b'{"x":' * DEEP + b"1" + b"}" * DEEP, ""),
    "a value 100,000 deep": (b'{"x":' + b"[" * DEEP + b"]" * DEEP + b"}", ""),
    "a value 900 deep": (b'{"x":' + b"[" * 900 + b"]" * 900 + b"}", "'x'"),
    "100,000 fields": (
        b"{" + b",".join(b'"f%d":1' % n for n in range(100_000)) + b"}",
        "'f0'",
    ),
    "a long field name": (b'{"' + b"a" * 1_000_000 + b'":1}', "unknown field"),
}


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_wrong_bodies_of_predict(article: Stack, name: str) -> None:
    body, words = WRONG_VALUES[name]
    sentence = refused(send(article, PREDICT, body))
    assert words in sentence
    still_right(article)


def test_a_name_twice_in_an_object_is_one_of_the_two(article: Stack) -> None:
    """JSON leaves it open which one counts; here it is the last, and nothing is mixed."""
    answer = send(article, PREDICT, b'{"x":[1,2],"x":[1,2,3,4,5,6,7,8,9,10]}')
    assert answer.status == 200
    assert answer.json() == send(article, PREDICT, json.dumps({"x": ROW}).encode()).json()
    refused(send(article, PREDICT, b'{"x":[1,2,3,4,5,6,7,8,9,10],"x":[1,2]}'))
    still_right(article)


WRONG_HEADERS: dict[str, tuple[dict[str, str], int]] = {
    "no content type": ({"Content-Type": ""}, 415),
    "text": ({"Content-Type": "text/plain"}, 415),
    "a form": ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    "nearly JSON": ({"Content-Type": "application/jsonp"}, 415),
    "a body that is said to be compressed": ({"Content-Encoding": "gzip"}, 415),
    "two lengths": ({"Content-Length": "10, 20"}, 400),
    "a negative length": ({"Content-Length": "-1"}, 400),
    "a length in words": ({"Content-Length": "ten"}, 400),
    "a length beyond 64 bits": ({"Content-Length": "9" * 40}, 400),
    "an unknown transfer encoding": ({"Content-Length": "", "Transfer-Encoding": "gzip"}, 400),
}


@pytest.mark.parametrize("name", WRONG_HEADERS)
def test_wrong_headers_of_predict(article: Stack, name: str) -> None:
    headers, status = WRONG_HEADERS[name]
    answer = send(article, PREDICT, json.dumps({"x": ROW}).encode(), headers)
    refused(answer)
    assert answer.status == status
    still_right(article)


def test_a_compressed_body_is_refused_before_it_grows(article: Stack) -> None:
    body = gzip.compress(b'{"x":[' + b"1," * 10_000_000 + b"1]}")
    refused(send(article, PREDICT, body, {"Content-Encoding": "gzip"}))
    refused(send(article, PREDICT, body))
    still_right(article)


@pytest.mark.parametrize(("target", "limit"), LIMITS)
def test_a_body_over_the_limit_is_refused_by_its_announced_length(
    article: Stack, target: str, limit: int
) -> None:
    answer = send(article, target, b"", {"Content-Length": str(limit + 1)})
    assert answer.status == 413
    assert str(limit) in refused(answer)
    still_right(article)


@pytest.mark.parametrize(("target", "limit"), LIMITS)
def test_a_body_over_the_limit_is_refused_when_it_comes_in_chunks(
    article: Stack, target: str, limit: int
) -> None:
    body = raw_http.chunked(b" " * (limit + (1 << 20)), 1 << 20)
    answer = send(article, target, body, {"Content-Length": "", "Transfer-Encoding": "chunked"})
    assert answer.status == 413
    assert str(limit) in refused(answer)
    still_right(article)


@pytest.mark.parametrize("as_chunks", [False, True])
def test_a_body_that_ends_too_early_is_no_request(article: Stack, as_chunks: bool) -> None:
    whole = json.dumps({"x": ROW}).encode()
    framing = {"Transfer-Encoding": "chunked"} if as_chunks else {"Content-Length": str(len(whole))}
    headers = {
        "Host": "localhost",
        "Authorization": f"Bearer {article.token}",
        "Content-Type": "application/json",
    }
    body = raw_http.chunked(whole, 10)[:-12] if as_chunks else whole[:-3]
    sent = raw_http.head("POST", PREDICT, headers | framing) + body
    answer = raw_http.exchange(article.port, sent, half_close=True)
    assert answer is None or 400 <= answer.status < 500
    still_right(article)


def test_a_million_rows_are_refused_and_many_rows_are_answered(article: Stack) -> None:
    row = b"[1,2,3,4,5,6,7,8,9,10]"
    refused(send(article, PREDICT, b'{"x":[' + b",".join([row] * 1_000_000) + b"]}"))
    answer = send(article, PREDICT, b'{"x":[' + b",".join([row] * 300_000) + b"]}")
    assert answer.status == 200
    (values,) = answer.json().values()
    assert len(values) == 300_000
    assert max(values) == pytest.approx(min(values), abs=1e-5)
    still_right(article)


# -- the Open Inference Protocol's door ---------------------------------------------------------


def inference(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "x", "shape": [1, 10], "datatype": "FP32", "data": ROW} | changes
    return {"inputs": [{k: v for k, v in tensor.items() if v is not None}]}


HUGE = 1 << 62
WRONG_INFERENCES: dict[str, Any] = {
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
    "data that is no list": inference(data="abc"),
    "data nested deeper than its shape": inference(data=[[[ROW]]]),
    "another datatype": inference(datatype="INT64"),
    "no such datatype": inference(datatype="FLOAT"),
    "another name": inference(name="z"),
    "a binary size without bytes": inference(data=None, parameters={"binary_data_size": 40}),
    "a negative binary size": inference(data=None, parameters={"binary_data_size": -40}),
    "a huge binary size": inference(data=None, parameters={"binary_data_size": HUGE}),
    "a binary size of text": inference(data=None, parameters={"binary_data_size": "40"}),
    "the input twice": {"inputs": inference()["inputs"] * 2},
    "no input": {"inputs": []},
    "no inputs": {},
    "inputs that are no list": {"inputs": {"x": ROW}},
    "an unknown output": inference() | {"outputs": [{"name": "nothing"}]},
    "a list": [],
    "null": None,
}


@pytest.mark.parametrize("name", WRONG_INFERENCES)
def test_wrong_bodies_of_infer(article: Stack, name: str) -> None:
    refused(send(article, INFER, json.dumps(WRONG_INFERENCES[name]).encode()))
    still_right(article)


DEEP_TENSOR = b'{"inputs":[{"name":"x","shape":[1,10],"datatype":"FP32","data":'
WRONG_INFERENCE_BYTES: dict[str, bytes] = {
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


@pytest.mark.parametrize("name", WRONG_INFERENCE_BYTES)
def test_wrong_bytes_of_infer(article: Stack, name: str) -> None:
    refused(send(article, INFER, WRONG_INFERENCE_BYTES[name]))
    still_right(article)


@pytest.mark.parametrize("length", ["", "-1", "0", "7", "99999999", "9" * 30, "1e1", "\xb2"])
def test_wrong_lengths_of_the_json_part(article: Stack, length: str) -> None:
    tensor = inference(data=None, parameters={"binary_data_size": 40})
    body = json.dumps(tensor).encode() + b"\x00" * 40
    headers = {"Inference-Header-Content-Length": length,
               "Content-Type": "application/octet-stream"}  # fmt: skip
    refused(send(article, INFER, body, headers))
    still_right(article)


@pytest.mark.parametrize(("tail", "words"), [(39, "binary_data_size"), (41, "1 bytes follow")])
def test_binary_tensors_are_neither_too_short_nor_too_long(
    article: Stack, tail: int, words: str
) -> None:
    head = json.dumps(inference(data=None, parameters={"binary_data_size": 40})).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)),
               "Content-Type": "application/octet-stream"}  # fmt: skip
    assert words in refused(send(article, INFER, head + b"\x00" * tail, headers))
    assert send(article, INFER, head + b"\x00" * 40, headers).status == 200


# -- explain, and what control reads -------------------------------------------------------------

WRONG_EXPLANATIONS: dict[str, bytes] = {
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


@pytest.mark.parametrize("name", WRONG_EXPLANATIONS)
def test_wrong_bodies_of_explain(article: Stack, name: str) -> None:
    refused(send(article, EXPLAIN, WRONG_EXPLANATIONS[name]))
    still_right(article)


# -- whatever else can be said in JSON ------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["x", "article", "FP32", "\x00", "\ud800", "../..", 2**63, -(2**64), 1e308])
)
keys = st.text(max_size=8) | st.sampled_from(
    ["x", "inputs", "outputs", "name", "shape", "datatype", "data", "parameters", "id", "model",
     "version", "targets", "scaling", "replicas", "weight", "default", "variant", "scopes", "kind",
     "spec", "state", "progress", "signature", "variants", "files", "sha256", "size", "values",
     "how", "samples", "seed", "background", "target", "output", "result", "error", "task",
     "runtime", "options", "example", "max_rows", "metadata", "binary_data_size", "created_at"]
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=25,
)
fuzzed = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def harmless(stack: Stack, method: str, target: str, body: bytes) -> None:
    """An answer that is no server's error, and JSON if it has a body at all."""
    headers = {
        "Host": "localhost",
        "Authorization": f"Bearer {stack.token}",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
    }
    answer = raw_http.exchange(stack.port, raw_http.head(method, target, headers) + body)
    assert answer is not None
    assert answer.status < 500, (method, target, body, answer.body)
    if answer.body:
        answer.json()


def as_body(value: Any) -> bytes:
    return json.dumps(value).encode()


@fuzzed
@given(value=values | st.fixed_dictionaries({"x": values}))
def test_fuzzed_predictions(article: Stack, value: Any) -> None:
    harmless(article, "POST", PREDICT, as_body(value))


@fuzzed
@given(body=st.binary(max_size=200))
def test_fuzzed_bytes(article: Stack, body: bytes) -> None:
    for target in (PREDICT, INFER, EXPLAIN):
        harmless(article, "POST", target, body)


tensors = st.fixed_dictionaries(
    {
        "name": st.just("x") | values,
        "shape": st.just([1, 10]) | st.lists(st.integers(), max_size=4) | values,
        "datatype": st.just("FP32") | values,
    },
    optional={"data": st.just(ROW) | values, "parameters": values},
)


@fuzzed
@given(
    value=st.fixed_dictionaries(
        {"inputs": st.lists(tensors, max_size=2) | values},
        optional={"outputs": values, "id": values, "parameters": values},
    )
)
def test_fuzzed_inferences(article: Stack, value: Any) -> None:
    harmless(article, "POST", INFER, as_body(value))


@fuzzed
@given(
    value=st.fixed_dictionaries(
        {"inputs": st.just({"x": ROW}) | values},
        optional={
            "output": values,
            "target": values,
            "samples": st.just(64) | values,
            "seed": values,
            "background": values,
        },
    )
)
def test_fuzzed_explanations(article: Stack, value: Any) -> None:
    harmless(article, "POST", EXPLAIN, as_body(value))


CONTROL = (
    ("POST", "/api/v1/models/fuzzed/versions"),
    ("POST", "/api/v1/models/article/versions/1/evidence"),
    ("PUT", "/api/v1/deployments/fuzzed"),
    ("POST", "/api/v1/keys"),
    ("POST", "/api/v1/jobs"),
    ("PATCH", "/api/v1/jobs/nothing"),
)
signature = st.fixed_dictionaries(
    {},
    optional={
        "inputs": st.lists(tensors, max_size=2) | values,
        "outputs": st.lists(tensors, max_size=2) | values,
        "example": st.just({"x": ROW}) | values,
        "max_rows": values,
    },
)
bodies = values | st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["fuzzed", "article"]) | values,
        "name": st.just("fuzzed") | values,
        "kind": st.sampled_from(["build", "metrics"]) | values,
        "version": st.just(1) | values,
        "targets": st.lists(st.fixed_dictionaries({"version": st.just(1) | values}), max_size=3)
        | values,
        "scaling": st.dictionaries(keys, values, max_size=3),
        "scopes": st.just(["call"]) | values,
        "signature": signature | values,
        "variants": values,
        "values": values,
        "how": values,
        "state": values,
        "progress": st.dictionaries(keys, values, max_size=3),
    },
)


@pytest.mark.parametrize(("method", "target"), CONTROL)
@fuzzed
@given(value=bodies)
def test_fuzzed_bodies_of_control(article: Stack, method: str, target: str, value: Any) -> None:
    harmless(article, method, target, as_body(value))


@fuzzed
@given(
    query=st.dictionaries(
        st.sampled_from(["key", "deployment", "since", "lines", "limit", "kind"]),
        st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12)
        | st.sampled_from(["-1", "0", "9" * 30, "%00", "%ff", "2026-99-99", "' OR 1=1 --"]),
    )
)
def test_fuzzed_queries(article: Stack, query: dict[str, str]) -> None:
    text = "&".join(f"{k}={v}".replace(" ", "%20").replace("#", "%23") for k, v in query.items())
    for target in ("/api/v1/usage", "/api/v1/jobs", "/api/v1/logs/control"):
        harmless_get(article, f"{target}?{text}")


def harmless_get(stack: Stack, target: str) -> None:
    headers = {"Host": "localhost", "Authorization": f"Bearer {stack.token}"}
    answer = raw_http.exchange(stack.port, raw_http.head("GET", target, headers))
    assert answer is not None
    assert answer.status < 500, (target, answer.body)


def test_all_is_well_after_all_this(article: Stack) -> None:
    still_right(article)
    value = article.client().predict("article", {"x": ROW})
    assert all(math.isfinite(v) for v in value.values())
    status = article.client().status()
    assert [d["state"] for d in status["deployments"] if d["name"] == "article"] == ["ready"]
    log = (article.home / "logs" / "gateway.log").read_text()
    assert "incident" not in log
