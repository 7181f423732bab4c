"""No JSON value, byte string or query causes a server error."""

from __future__ import annotations

import json
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from tests.support.clients import raw_http
from tests.support.servers.article import (
    EXPLAIN,
    INFER,
    PREDICT,
    ROW,
    assert_unharmed,
)
from tests.support.servers.maas import Stack

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
fuzzed = hypothesis.settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[
        hypothesis.HealthCheck.function_scoped_fixture,
        hypothesis.HealthCheck.too_slow,
    ],
)


def assert_no_server_error(stack: Stack, method: str, target: str, body: bytes) -> None:
    """Assert that the answer is not a server error, and that its body, if any, is JSON."""
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


def json_body(value: Any) -> bytes:
    return json.dumps(value).encode()


@fuzzed
@hypothesis.given(value=values | st.fixed_dictionaries({"x": values}))
def test_fuzzed_predictions(article: Stack, value: Any) -> None:
    assert_no_server_error(article, "POST", PREDICT, json_body(value))


@fuzzed
@hypothesis.given(body=st.binary(max_size=200))
def test_fuzzed_bytes(article: Stack, body: bytes) -> None:
    for target in (PREDICT, INFER, EXPLAIN):
        assert_no_server_error(article, "POST", target, body)


tensors = st.fixed_dictionaries(
    {
        "name": st.just("x") | values,
        "shape": st.just([1, 10]) | st.lists(st.integers(), max_size=4) | values,
        "datatype": st.just("FP32") | values,
    },
    optional={"data": st.just(ROW) | values, "parameters": values},
)


@fuzzed
@hypothesis.given(
    value=st.fixed_dictionaries(
        {"inputs": st.lists(tensors, max_size=2) | values},
        optional={"outputs": values, "id": values, "parameters": values},
    )
)
def test_fuzzed_inferences(article: Stack, value: Any) -> None:
    assert_no_server_error(article, "POST", INFER, json_body(value))


@fuzzed
@hypothesis.given(
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
    assert_no_server_error(article, "POST", EXPLAIN, json_body(value))


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
@hypothesis.given(value=bodies)
def test_fuzzed_bodies_of_control(article: Stack, method: str, target: str, value: Any) -> None:
    assert_no_server_error(article, method, target, json_body(value))


@fuzzed
@hypothesis.given(
    query=st.dictionaries(
        st.sampled_from(["key", "deployment", "since", "lines", "limit", "kind"]),
        st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12)
        | st.sampled_from(["-1", "0", "9" * 30, "%00", "%ff", "2026-99-99", "' OR 1=1 --"]),
    )
)
def test_fuzzed_queries(article: Stack, query: dict[str, str]) -> None:
    text = "&".join(f"{k}={v}".replace(" ", "%20").replace("#", "%23") for k, v in query.items())
    for target in ("/api/v1/usage", "/api/v1/jobs", "/api/v1/logs/control"):
        assert_no_server_error_on_get(article, f"{target}?{text}")


def assert_no_server_error_on_get(stack: Stack, target: str) -> None:
    headers = {"Host": "localhost", "Authorization": f"Bearer {stack.token}"}
    answer = raw_http.exchange(stack.port, raw_http.head("GET", target, headers))
    assert answer is not None
    assert answer.status < 500, (target, answer.body)


def test_the_server_is_unharmed(article: Stack) -> None:
    assert_unharmed(article)
