from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, Struct

from maas.domain.errors import InvalidInput, MalformedBody
from maas.gateway.text.json_body import check_size, parse_object, to_struct


class Inner(Struct):
    count: Annotated[int, Meta(ge=1, le=3)] = 1


class Outer(Struct):
    name: str
    inner: list[Inner] = []
    share: Annotated[float, Meta(ge=0, le=1)] = 0.5
    kind: Literal["b", "a"] | None = None
    tone: Annotated[Literal["loud", "quiet"], Meta(description="Volume")] | None = None
    marks: list[Mark] | str = ""


class Mark(Struct):
    color: Literal["red", "blue"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "name is missing"),
        ({"name": 5}, "name: expected str, got 5"),
        ({"name": "a", "share": True}, "share: expected float, got True"),
        ({"name": "a", "share": 1.5}, "share: expected float <= 1.0, got 1.5"),
        ({"name": "a", "tone": "high"}, "tone: expected one of loud, quiet, got 'high'"),
        ({"name": "a", "kind": "c"}, "kind: expected one of a, b, got 'c'"),
        (
            {"name": "a", "marks": [{"color": "x"}]},
            "marks[0].color: expected one of blue, red, got 'x'",
        ),
        ({"name": "a", "share": float("inf")}, "share: expected float <= 1.0, got inf"),
        ({"name": "a", "inner": [{}, {"count": 4}]}, "inner[1].count: expected int <= 3, got 4"),
        ({"name": "a", "inner": "x" * 99}, "inner: expected array, got a text of length 99"),
    ],
)
def test_a_refusal_names_field_expectation_and_value(value: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as error:
        to_struct(Outer, value)
    assert error.value.message == message
    assert error.value.details["field"] == message.partition(":")[0].partition(" ")[0]


@pytest.mark.parametrize(
    ("body", "name"), [(b'{"a": 1, "seed": -%d}', "seed"), (b'{"a": [1, %d]}', "the body")]
)
def test_a_number_with_too_many_digits_is_named(body: bytes, name: str) -> None:
    with pytest.raises(MalformedBody) as error:
        parse_object(body.replace(b"%d", b"9" * 5000))
    assert error.value.message == (
        f"{name}: expected numbers of at most 4300 digits, got a longer one"
    )


def test_a_valid_body_is_decoded_without_its_nulls() -> None:
    body = parse_object(b'{"name": "\\ud83d\\ude00", "share": null, "inner": [{"count": 2}]}')
    assert body == {"name": "\U0001f600", "inner": [{"count": 2}]}
    assert to_struct(Outer, body) == Outer("\U0001f600", [Inner(2)])


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"null", b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": 1, "a": 1}',
        b'{"b": [{"a": 1, "a": 1}]}', b'{"a": "\\ud800"}', b'{"a": "\xff"}', b'{"a": 1',
        b'{"a": ' * 5000, b"[" * 5000, b'{"a": ' + b"9" * 9999 + b"}", b"{" * 200_000,
    ],
    ids=lambda body: str(body[:20]),
)  # fmt: skip
def test_anything_but_a_plain_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        parse_object(body)


def test_the_size_of_free_form_values_is_limited() -> None:
    check_size({"a": [1, {"b": None}]}, "f")
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    for invalid in (deep, list(range(6000)), [1e400], [10**30]):
        with pytest.raises(InvalidInput, match="f"):
            check_size(invalid, "f")
