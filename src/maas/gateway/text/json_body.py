"""JSON request bodies of OpenAI's and Anthropic's protocols: strict and bounded.

The fields of these protocols are declared as types with bounds in `maas.protocols`. A value that
does not fit is refused with the name of the field, what was expected and what came.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn, TypeVar

import msgspec

from maas.domain.errors import InvalidInput, MalformedBody
from maas.domain.names import shown

T = TypeVar("T")

MAX_OBJECTS = 100_000
"""Objects in one body: decoding each blocks the event loop."""
MAX_DEPTH = 32
"""Levels of a schema or of a tool's arguments."""
MAX_VALUES = 5_000
"""Values in a schema or in a tool's arguments."""

MAX_DIGITS = 4300
"""Digits of an integer: Python refuses to parse more, since that would take long."""
_LONG_NUMBER = re.compile(rb'"([^"\\]{1,64})"\s{0,9}:\s{0,9}-?\d{%d}' % (MAX_DIGITS + 1))

_LEAST, _MOST = -(1 << 63), (1 << 63) - 1
_LOCATION = re.compile(r"(?P<message>.*) - at `(?P<key>key in )?\$(?P<path>.*)`", re.DOTALL)
"""The end of msgspec's messages."""
_MISSING = re.compile(r"Object missing required field `(?P<field>[^`]*)`")
_STEP = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+)\]|\[\.\.\.\]")
"""A step of msgspec's paths: a field, an item, or any value of a mapping."""


def parse_object(body: bytes | bytearray) -> dict[str, Any]:
    """The fields of the JSON object that are not null: in these protocols null means the same as
    a missing field.

    Raises MalformedBody for invalid JSON, repeated names (parsers differ in which one they use),
    NaN and infinity, and unpaired surrogates, which no text contains.
    """
    if body.count(b"{") > MAX_OBJECTS:
        raise MalformedBody(f"the body has more than {MAX_OBJECTS} objects")
    try:
        value = json.loads(
            body.decode("utf-8"), object_pairs_hook=_unique_names, parse_constant=_refuse_constant
        )
        if b"\\u" in body:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise MalformedBody("the body is nested too deeply") from None
    except UnicodeEncodeError:
        raise MalformedBody("the body has an unpaired surrogate, which is not text") from None
    except ValueError as error:
        if str(error).startswith("Exceeds the limit"):
            number = _LONG_NUMBER.search(body)
            name = number[1].decode(errors="replace") if number else "the body"
            raise MalformedBody(
                f"{name}: expected numbers of at most {MAX_DIGITS} digits, got a longer one"
            ) from None
        raise MalformedBody(f"the body is not JSON: {shown(str(error), 120)}") from None
    if not isinstance(value, dict):
        raise MalformedBody(f"expected a JSON object, got {kind_of(value)}")
    return {name: item for name, item in value.items() if item is not None}


def model_and_fields(body: bytes | bytearray) -> tuple[str, dict[str, Any]]:
    """The name of the deployment, empty if it is missing, and all fields of the JSON object.

    Raises MalformedBody.
    """
    fields = parse_object(body)
    model = fields.get("model")
    return model if isinstance(model, str) else "", fields


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names: set[str] = set()
        for name, _ in pairs:
            if name in names:
                raise MalformedBody(f"an object has the name {shown(name)} twice")
            names.add(name)
    return fields


def _refuse_constant(text: str) -> NoReturn:
    raise MalformedBody(f"numbers must be finite, not {text}")


def to_struct(kind: type[T], value: dict[str, Any]) -> T:
    """`value` as an instance of `kind`.

    Raises InvalidInput that names the field, what was expected and what came.
    """
    try:
        return msgspec.convert(value, kind)
    except RecursionError:
        raise InvalidInput("the body is nested too deeply") from None
    except msgspec.ValidationError as error:
        raise _refusal(str(error), value, kind) from None


def _refusal(message: str, value: Any, kind: type[Any]) -> InvalidInput:
    """The error for a message of msgspec."""
    path = ""
    is_key = False
    location = _LOCATION.fullmatch(message)
    if location is not None:
        message, path = location["message"], location["path"]
        is_key = bool(location["key"])
    missing = _MISSING.fullmatch(message)
    if missing is not None:
        field = f"{path}.{missing['field']}".lstrip(".")
        return InvalidInput(f"{field} is missing", field=field)
    field = path.lstrip(".") or "body"
    expected = message.partition(", got ")[0].replace("`", "").removeprefix("Expected ")
    if is_key:
        return InvalidInput(f"{field}: expected {expected} as each name", field=field)
    actual = _description_at(value, path)
    if message.startswith("Invalid enum value"):
        expected = f"one of {', '.join(_allowed_values(kind, path))}"
    if message.startswith("Invalid value"):
        return InvalidInput(f"{field}: {actual} is not supported here", field=field)
    return InvalidInput(f"{field}: expected {expected}, got {actual}", field=field)


def _allowed_values(kind: type[Any], path: str) -> list[str]:
    """The values of the enumeration at `path` of `kind`."""
    types = [msgspec.inspect.type_info(kind)]
    for step in _STEP.finditer(path):
        inner: list[Any] = []
        for type_ in _members(types):
            inner += _types_at(type_, step["name"])
        types = inner
    values: list[Any] = []
    for type_ in _members(types):
        values += getattr(type_, "values", ())
    return list(map(str, values))


def _types_at(type_: Any, name: str | None) -> list[Any]:
    """The types of the field `name`, or without a name, of the items or values."""
    if name is not None:
        fields = getattr(type_, "fields", ())
        return [field.type for field in fields if field.encode_name == name]
    inner = (getattr(type_, attribute, None) for attribute in ("item_type", "value_type"))
    return [one for one in inner if one is not None]


def _members(types: list[Any]) -> list[Any]:
    """`types` with the members of unions in place of the unions, and without descriptions."""
    members: list[Any] = []
    for type_ in types:
        if isinstance(type_, msgspec.inspect.Metadata):
            members += _members([type_.type])
        elif isinstance(type_, msgspec.inspect.UnionType):
            members += _members(list(type_.types))
        else:
            members.append(type_)
    return members


def _description_at(value: Any, path: str) -> str:
    """What is at `path` of `value`, for an error message."""
    for step in _STEP.finditer(path):
        if step["name"] is not None and isinstance(value, dict):
            value = value.get(step["name"])
        elif step["index"] is not None and isinstance(value, list):
            value = value[int(step["index"])]
        else:
            return "another"  # msgspec does not report which value of a mapping is wrong
    if isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) < 40):
        return shown(value)
    if isinstance(value, str | list | dict):
        return f"{kind_of(value)} of length {len(value)}"
    return kind_of(value)


_KINDS = {
    dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number",
    float: "a number", type(None): "null",
}  # fmt: skip


def kind_of(value: Any) -> str:
    """The kind of a JSON value, for an error message."""
    return _KINDS.get(type(value), "something else")


def check_size(value: Any, field: str) -> None:
    """Check a value of free form.

    Raises InvalidInput if it is nested too deeply, has too many values, or has numbers that are
    not finite or do not fit into 64 bits.
    """
    level, depth, count = [value], 0, 0
    while level:
        depth += 1
        count += len(level)
        if depth > MAX_DEPTH:
            raise InvalidInput(f"{field}: expected at most {MAX_DEPTH} levels", field=field)
        if count > MAX_VALUES:
            raise InvalidInput(f"{field}: expected at most {MAX_VALUES} values", field=field)
        if any(isinstance(item, int | float) and not _LEAST <= item <= _MOST for item in level):
            raise InvalidInput(f"{field}: expected numbers of at most 64 bits", field=field)
        level = children(level)


def children(values: list[Any]) -> list[Any]:
    """The items of all lists and the values of all objects in `values`."""
    inner: list[Any] = []
    for value in values:
        if isinstance(value, dict):
            inner += value.values()
        elif isinstance(value, list):
            inner += value
    return inner
