"""Strict JSON: values that the database or later code cannot handle are refused."""

from __future__ import annotations

import pytest

from maas.control.api.bodies import MAX_DEPTH, checked_json
from maas.domain.errors import InvalidInput, MaasError, MalformedBody


@pytest.mark.parametrize("body", [
    b"", b"{", b'{"a": NaN}', b'{"a": Infinity}', b'{"a": 1e999}', b"1" * 5000, b'{"a":' * 100_000,
    b"[" * 100_000 + b"]" * 100_000, b"\xff\xfe", b"[9223372036854775808]",
    b'{"a": -9223372036854775809}', b"[1" + b"0" * 40 + b"]",
])  # fmt: skip
def test_malformed_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        checked_json(body)


def test_the_depth_is_limited_without_recursion() -> None:
    def nested(depth: int) -> bytes:
        return b"[" * depth + b"]" * depth

    checked_json(nested(MAX_DEPTH - 1))
    with pytest.raises(MalformedBody, match=f"more than {MAX_DEPTH} levels"):
        checked_json(nested(MAX_DEPTH + 1))


@pytest.mark.parametrize("body", [b'{"a": "x\\u0000"}', b'{"a\\u0000": 1}', b'[["\\u0000"]]'])
def test_nul_characters_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="NUL"):
        checked_json(body)


def test_ordinary_values_pass() -> None:
    body = '{"a": [1, -2.5, true, null, "é"], "b": {"c": 9223372036854775807}}'.encode()
    assert checked_json(body) == {
        "a": [1, -2.5, True, None, "é"], "b": {"c": 9223372036854775807},
    }  # fmt: skip
    assert issubclass(MalformedBody, MaasError)
