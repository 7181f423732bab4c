"""JSON bodies in the shapes of others' protocols: read strictly, bounded, refused by field.

Where our own doors know a signature, these know types: what a field may hold is said once, as a
type with its bounds, and what does not fit is refused with the field, what was expected and what
came.
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
"""Of one body: each costs time while nobody else is served."""
MAX_DEPTH = 32
"""Of a schema or of a tool's arguments."""
MAX_VALUES = 5_000
"""In one of these."""

MAX_DIGITS = 4300
"""Of a whole number: Python reads no more, since that would take long."""
_LONG_NUMBER = re.compile(rb'"([^"\\]{1,64})"\s{0,9}:\s{0,9}-?\d{%d}' % (MAX_DIGITS + 1))

_LEAST, _MOST = -(1 << 63), (1 << 63) - 1
_AT = re.compile(r"(?P<said>.*) - at `(?P<key>key in )?\$(?P<path>.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>[^`]*)`")
_STEP = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+)\]|\[\.\.\.\]")


def parse_object(body: bytes | bytearray) -> dict[str, Any]:
    """The JSON object without its null fields, which mean "as if not said" in these protocols.

    Raises MalformedBody for what is no JSON, for names that come twice (readers differ in which
    one they believe), numbers that JSON does not have, and half surrogates, which no text holds.
    """
    if body.count(b"{") > MAX_OBJECTS:
        raise MalformedBody(f"the body has more than {MAX_OBJECTS} objects")
    try:
        value = json.loads(
            body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_not_a_number
        )
        if b"\\u" in body:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise MalformedBody("the body is nested too deeply") from None
    except UnicodeEncodeError:
        raise MalformedBody("the body has half of a surrogate pair, which is no text") from None
    except ValueError as wrong:
        if str(wrong).startswith("Exceeds the limit"):
            found = _LONG_NUMBER.search(body)
            name = found[1].decode(errors="replace") if found else "the body"
            raise MalformedBody(
                f"{name}: expected numbers of at most {MAX_DIGITS} digits, got a longer one"
            ) from None
        raise MalformedBody(f"the body is not JSON: {shown(str(wrong), 120)}") from None
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


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise MalformedBody(f"the name {shown(name)} comes twice in one object")
            seen.add(name)
    return made


def _not_a_number(text: str) -> NoReturn:
    raise MalformedBody(f"numbers must be finite, not {text}")


def typed(kind: type[T], value: dict[str, Any]) -> T:
    """`value` as a `kind`; raises InvalidInput that names the field, what was expected, and what
    came."""
    try:
        return msgspec.convert(value, kind)
    except RecursionError:
        raise InvalidInput("the body is nested too deeply") from None
    except msgspec.ValidationError as wrong:
        raise _refusal(str(wrong), value, kind) from None


def _refusal(said: str, value: Any, kind: type[Any]) -> InvalidInput:
    found = _AT.fullmatch(said)
    path = ""
    is_key = False
    if found is not None:
        said, path, is_key = found["said"], found["path"], bool(found["key"])
    missing = _MISSING.fullmatch(said)
    if missing is not None:
        field = f"{path}.{missing['field']}".lstrip(".")
        return InvalidInput(f"{field} is missing", field=field)
    field = path.lstrip(".") or "body"
    expected = said.partition(", got ")[0].replace("`", "").removeprefix("Expected ")
    if is_key:
        return InvalidInput(f"{field}: expected {expected} as each name", field=field)
    came = _came(value, path)
    if said.startswith("Invalid enum value"):
        expected = f"one of {', '.join(_choices(kind, path))}"
    if said.startswith("Invalid value"):
        return InvalidInput(f"{field}: {came} is not supported here", field=field)
    return InvalidInput(f"{field}: expected {expected}, got {came}", field=field)


def _choices(kind: type[Any], path: str) -> list[str]:
    """The values that the type at `path` of `kind` lists."""
    types = [msgspec.inspect.type_info(kind)]
    for step in _STEP.finditer(path):
        types = [inner for one in types for inner in _parts(one, step["name"])]
    return [str(value) for one in _members(types) for value in getattr(one, "values", ())]


def _parts(kind: Any, name: str | None) -> list[Any]:
    """The types of a field of the type, or without a name of its items."""
    if name is None:
        return [
            getattr(one, inner)
            for one in _members([kind])
            for inner in ("item_type", "value_type")
            if hasattr(one, inner)
        ]
    fields = [field for one in _members([kind]) for field in getattr(one, "fields", ())]
    return [field.type for field in fields if field.encode_name == name]


def _members(types: list[Any]) -> list[Any]:
    """With a union's members in its place."""
    return [member for one in types for member in getattr(one, "types", (one,))]


def _came(value: Any, path: str) -> str:
    for step in _STEP.finditer(path):
        if step["name"] is not None and isinstance(value, dict):
            value = value.get(step["name"])
        elif step["index"] is not None and isinstance(value, list):
            value = value[int(step["index"])]
        else:
            return "another"  # the path of a value in a mapping does not say which
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
    return _KINDS.get(type(value), "something else")


def check_size(value: Any, field: str) -> None:
    """Raises InvalidInput if a value of free form is too deep, has too many parts, or numbers
    that are not finite or do not fit 64 bits."""
    level, depth, count = [value], 0, 0
    while level:
        depth += 1
        count += len(level)
        if depth > MAX_DEPTH:
            raise InvalidInput(f"{field}: at most {MAX_DEPTH} levels deep", field=field)
        if count > MAX_VALUES:
            raise InvalidInput(f"{field}: at most {MAX_VALUES} values", field=field)
        if any(isinstance(item, int | float) and not _LEAST <= item <= _MOST for item in level):
            raise InvalidInput(f"{field}: numbers must fit 64 bits", field=field)
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
