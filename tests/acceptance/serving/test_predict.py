"""The network of the article over HTTP: correct answers, and a message for malformed requests."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

from tests.support.clients import raw_http
from tests.support.servers.article import (
    DEEP,
    LIMITS,
    PREDICT,
    ROW,
    assert_unharmed,
    assert_works,
    network_outputs,
    refusal,
    send,
)
from tests.support.servers.maas import Stack


def test_one_row_equals_torch(article: Stack) -> None:
    row = [0.1 * v - 0.4 for v in ROW]
    for sent in (row, ROW, [float(v) for v in ROW]):
        answer = send(article, PREDICT, json.dumps({"x": sent}).encode())
        assert answer.status == 200
        (value,) = answer.json().values()
        assert isinstance(value, float)
        assert value == pytest.approx(network_outputs([[float(v) for v in sent]])[0], abs=1e-5)


def test_a_batch_of_rows_is_answered_with_a_list(article: Stack) -> None:
    torch.manual_seed(1)
    rows: list[list[float]] = torch.randn(257, 10).tolist()
    answer = send(article, PREDICT, json.dumps({"x": rows}).encode())
    assert answer.status == 200
    (values,) = answer.json().values()
    assert values == pytest.approx(network_outputs(rows), abs=1e-5)
    one = send(article, PREDICT, json.dumps({"x": rows[:1]}).encode()).json()
    (values,) = one.values()
    assert values == pytest.approx(network_outputs(rows[:1]), abs=1e-5)


def test_the_path_without_a_name_is_the_default_deployment(article: Stack) -> None:
    answer = send(article, "/predict", json.dumps({"x": ROW}).encode())
    assert answer.status == 200
    assert answer.json() == send(article, PREDICT, json.dumps({"x": ROW}).encode()).json()


def test_the_sdk_returns_the_same(article: Stack) -> None:
    client = article.client()
    (value,) = client.predict("article", {"x": ROW}).values()
    assert value == pytest.approx(network_outputs([[float(v) for v in ROW]])[0], abs=1e-5)


def test_a_chunked_body_is_accepted(article: Stack) -> None:
    body = raw_http.chunked(json.dumps({"x": ROW}).encode(), 7)
    answer = send(article, PREDICT, body, {"Content-Length": "", "Transfer-Encoding": "chunked"})
    assert answer.status == 200
    assert_works(article)


def test_a_row_of_the_wrong_length_is_refused_with_the_documented_message(article: Stack) -> None:
    answer = send(article, PREDICT, b'{"x":[1,2,3,4,5]}')
    assert answer.status == 422
    problem = answer.json()
    assert "field 'x'" in problem["detail"]
    assert "expected shape [10] or [n, 10]" in problem["detail"]
    assert "got [5]" in problem["detail"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["status"] == 422
    assert_works(article)


MALFORMED_BODIES: dict[str, tuple[bytes, str]] = {
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
    "an unclosed object": (b'{"x":[1,2,3,4,5,6,7,8,9,10]', ""),
    "a trailing comma": (b'{"x":[1,2,3,4,5,6,7,8,9,10,]}', ""),
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


@pytest.mark.parametrize("name", MALFORMED_BODIES)
def test_malformed_bodies_of_predict_are_refused(article: Stack, name: str) -> None:
    body, message = MALFORMED_BODIES[name]
    sentence = refusal(send(article, PREDICT, body))
    assert message in sentence
    assert_works(article)


def test_the_last_of_two_equal_keys_counts(article: Stack) -> None:
    """JSON leaves open which one counts. Here it is the last, and values are not mixed."""
    answer = send(article, PREDICT, b'{"x":[1,2],"x":[1,2,3,4,5,6,7,8,9,10]}')
    assert answer.status == 200
    assert answer.json() == send(article, PREDICT, json.dumps({"x": ROW}).encode()).json()
    refusal(send(article, PREDICT, b'{"x":[1,2,3,4,5,6,7,8,9,10],"x":[1,2]}'))
    assert_works(article)


MALFORMED_HEADERS: dict[str, tuple[dict[str, str], int]] = {
    "no content type": ({"Content-Type": ""}, 415),
    "text": ({"Content-Type": "text/plain"}, 415),
    "a form": ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    "nearly JSON": ({"Content-Type": "application/jsonp"}, 415),
    "a compressed content encoding": ({"Content-Encoding": "gzip"}, 415),
    "two lengths": ({"Content-Length": "10, 20"}, 400),
    "a negative length": ({"Content-Length": "-1"}, 400),
    "a length in words": ({"Content-Length": "ten"}, 400),
    "a length beyond 64 bits": ({"Content-Length": "9" * 40}, 400),
    "an unknown transfer encoding": ({"Content-Length": "", "Transfer-Encoding": "gzip"}, 400),
}


@pytest.mark.parametrize("name", MALFORMED_HEADERS)
def test_malformed_headers_of_predict_are_refused(article: Stack, name: str) -> None:
    headers, status = MALFORMED_HEADERS[name]
    answer = send(article, PREDICT, json.dumps({"x": ROW}).encode(), headers)
    refusal(answer)
    assert answer.status == status
    assert_works(article)


def test_a_compressed_body_is_refused_without_decompression(article: Stack) -> None:
    body = gzip.compress(b'{"x":[' + b"1," * 10_000_000 + b"1]}")
    refusal(send(article, PREDICT, body, {"Content-Encoding": "gzip"}))
    refusal(send(article, PREDICT, body))
    assert_works(article)


@pytest.mark.parametrize(("target", "limit"), LIMITS)
def test_a_body_over_the_limit_is_refused_by_its_content_length(
    article: Stack, target: str, limit: int
) -> None:
    answer = send(article, target, b"", {"Content-Length": str(limit + 1)})
    assert answer.status == 413
    assert str(limit) in refusal(answer)
    assert_works(article)


@pytest.mark.parametrize(("target", "limit"), LIMITS)
def test_a_chunked_body_over_the_limit_is_refused(article: Stack, target: str, limit: int) -> None:
    body = raw_http.chunked(b" " * (limit + (1 << 20)), 1 << 20)
    answer = send(article, target, body, {"Content-Length": "", "Transfer-Encoding": "chunked"})
    assert answer.status == 413
    assert str(limit) in refusal(answer)
    assert_works(article)


@pytest.mark.parametrize("as_chunks", [False, True])
def test_a_truncated_body_is_not_answered_with_success(article: Stack, as_chunks: bool) -> None:
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
    assert_works(article)


def test_a_million_rows_are_refused_and_300_000_are_answered(article: Stack) -> None:
    row = b"[1,2,3,4,5,6,7,8,9,10]"
    refusal(send(article, PREDICT, b'{"x":[' + b",".join([row] * 1_000_000) + b"]}"))
    answer = send(article, PREDICT, b'{"x":[' + b",".join([row] * 300_000) + b"]}")
    assert answer.status == 200
    (values,) = answer.json().values()
    assert len(values) == 300_000
    assert max(values) == pytest.approx(min(values), abs=1e-5)
    assert_works(article)


def test_the_server_is_unharmed(article: Stack) -> None:
    assert_unharmed(article)
