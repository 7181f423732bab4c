"""What a caller's JSON Schema may cost: an engine turns it into a grammar, and grammars explode.

Checked here is what no engine could take; whether it can enforce a keyword is the engine's to say.
"""

from __future__ import annotations

import re
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.names import shown
from maas.gateway.json_body import check_size, kind_of

MAX_REPEATS = 2_000
"""Of a character or item: engines write repetitions out."""
MAX_PATTERN = 256
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_BRACES = re.compile(r"\{(\d*)(,?)(\d*)\}")
_LISTS = ("enum", "anyOf", "oneOf", "allOf", "prefixItems", "required")
_MAPS = ("properties", "$defs", "definitions", "patternProperties")
_INNER = ("items", "additionalProperties", "not", "if", "then", "else", "contains")


def check_schema(schema: Any, field: str) -> None:
    """Raises InvalidInput for a schema that is none, too large, reaches outside itself, or whose
    repetitions or patterns multiply."""
    if not isinstance(schema, dict):
        raise InvalidInput(f"{field}: expected a JSON Schema object, got {kind_of(schema)}",
                           field=field)  # fmt: skip
    check_size(schema, field)
    waiting = [schema]
    while waiting:
        one = waiting.pop()
        _check_one(one, field)
        waiting += _inside(one)


def _inside(schema: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[Any] = [schema.get(name) for name in _INNER]
    for name in _MAPS:
        found += list(schema.get(name, {}).values())
    for name in ("anyOf", "oneOf", "allOf", "prefixItems"):
        found += schema.get(name, [])
    if isinstance(schema.get("items"), list):
        found += schema["items"]
    return [inner for inner in found if isinstance(inner, dict)]


def _check_one(schema: dict[str, Any], field: str) -> None:
    for name in _COUNTS:
        count = schema.get(name, 0)
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MAX_REPEATS:
            raise _wrong(field, name, f"a whole number from 0 to {MAX_REPEATS}", count)
    for name in _LISTS:
        if not isinstance(schema.get(name, []), list):
            raise _wrong(field, name, "a list", schema[name])
    for name in _MAPS:
        if not isinstance(schema.get(name, {}), dict):
            raise _wrong(field, name, "an object", schema[name])
    kind = schema.get("type", "object")
    kinds = kind if isinstance(kind, list) else [kind]
    for one in kinds:
        if one not in ("object", "array", "string", "number", "integer", "boolean", "null"):
            raise _wrong(field, "type", "a type of JSON", one)
    target = schema.get("$ref", "#")
    if not isinstance(target, str) or not target.startswith("#"):
        raise _wrong(field, "$ref", "a place in the schema itself, like #/$defs/name", target)
    for pattern in (schema.get("pattern", ""), *schema.get("patternProperties", {})):
        if not isinstance(pattern, str) or len(pattern) > MAX_PATTERN:
            raise _wrong(field, "pattern", f"a text of at most {MAX_PATTERN} characters", pattern)
        _check_pattern(pattern, field)


def _check_pattern(pattern: str, field: str) -> None:
    """Refuses a repetition of what holds a repetition, and large counts: both multiply."""
    for low, _, high in _BRACES.findall(pattern):
        if any(len(number) > 4 or int(number) > MAX_REPEATS for number in (low, high) if number):
            raise InvalidInput(f"{field}: pattern repeats more than {MAX_REPEATS} times",
                               field=field)  # fmt: skip
    plain = re.sub(r"\\.", "x", pattern)
    plain = re.sub(r"\[[^\]]*\]", "x", plain)
    holds = [False]
    last_held = False
    """Whether what was just closed holds a repetition."""
    for at, character in enumerate(plain):
        if character == "(":
            holds.append(False)
        elif character == ")":
            last_held = holds.pop() if len(holds) > 1 else False
            holds[-1] |= last_held
        elif character in "*+{":
            if last_held and plain[at - 1 : at] == ")":
                raise InvalidInput(
                    f"{field}: pattern {shown(pattern)} repeats a repetition", field=field
                )
            holds[-1] = True


def _wrong(field: str, name: str, expected: str, came: Any) -> InvalidInput:
    return InvalidInput(f"{field}: {name}: expected {expected}, got {shown(came)}", field=field)
