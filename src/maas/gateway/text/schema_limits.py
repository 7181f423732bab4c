"""Limits of JSON Schemas that clients send.

An engine turns a schema into a grammar, whose size can explode. The limits refuse what no engine
could compile; whether an engine supports a keyword is checked by the engine.
"""

from __future__ import annotations

import re
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.names import shown
from maas.gateway.text.json_body import check_size, children, kind_of
from maas.gateway.text.schema_multiples import check_multiples
from maas.gateway.text.schema_references import ROOT, check_copies, check_nesting, targets_of

MAX_COUNT = 4_096
"""Largest number of characters, items or properties."""
MAX_REPEATS = 2_000
"""Largest count within a pattern: engines write repetitions out."""
MAX_TEXT, MAX_TEXTS = 32_000, 100_000
"""Characters of one text, and of all texts and names together."""
MAX_PATTERN = 256
"""Characters of a pattern."""

_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_LISTS = ("enum", "anyOf", "oneOf", "allOf", "prefixItems", "required")
_SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_MAPS = ("properties", "$defs", "definitions", "patternProperties")
_SCHEMAS = ("items", "additionalProperties", "not", "if", "then", "else", "contains")
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_BRACES = re.compile(r"\{(\d*)(,?)(\d*)\}")


def check_schema(schema: Any, field: str) -> None:
    """Check the schema in the request's `field`.

    Raises InvalidInput if it is not a schema, too large, refers to another document, or has
    repetitions or patterns that multiply.
    """
    if not isinstance(schema, dict):
        raise InvalidInput(f"{field}: expected a JSON Schema object, got {kind_of(schema)}",
                           field=field)  # fmt: skip
    check_size(schema, field)
    _check_texts(schema, field)
    targets = targets_of(schema, field)
    pending = [schema]
    for name, target in targets.items():
        if name != ROOT and isinstance(target.value, dict):
            pending.append(target.value)
    visited: set[int] = set()
    schemas: list[dict[str, Any]] = []
    while pending:
        part = pending.pop()
        if id(part) in visited:
            continue
        visited.add(id(part))
        if part is not schema:
            _check_id(part, schema, field)
        _check_keywords(part, field)
        schemas.append(part)
        pending += _subschemas(part)
    check_multiples(schemas, targets, field)
    check_nesting(targets, field)
    check_copies(targets, field)


def _check_texts(schema: dict[str, Any], field: str) -> None:
    size = 0
    level: list[Any] = [schema]
    while level:
        for item in level:
            texts = item if isinstance(item, dict) else (item,)
            lengths = [len(text) for text in texts if isinstance(text, str)]
            size += sum(lengths)
            if size > MAX_TEXTS or any(length > MAX_TEXT for length in lengths):
                raise InvalidInput(
                    f"{field}: expected at most {MAX_TEXT} characters in a text and {MAX_TEXTS} "
                    "in all",
                    field=field,
                )
        level = children(level)


def _check_id(part: dict[str, Any], root: dict[str, Any], field: str) -> None:
    """References are resolved from the root. A part with an id of its own would be the root for
    the references in it, which would lead elsewhere."""
    drafts = f"{root.get('$schema')} {part.get('$schema')}"
    names = ["$id", "id"] if "draft-03" in drafts or "draft-04" in drafts else ["$id"]
    if any(isinstance(part.get(name), str) for name in names):
        raise InvalidInput(f"{field}: only the whole schema may have an {names[-1]}, no part",
                           field=field)  # fmt: skip


def _subschemas(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The schemas directly in `schema`."""
    values: list[Any] = [schema.get(name) for name in _SCHEMAS]
    for name in _MAPS:
        values += schema.get(name, {}).values()
    for name in _SCHEMA_LISTS:
        values += schema.get(name, [])
    if isinstance(schema.get("items"), list):
        values += schema["items"]
    return [value for value in values if isinstance(value, dict)]


def _check_keywords(schema: dict[str, Any], field: str) -> None:
    """Check the keywords of one schema, without those of the schemas in it."""
    for name in _COUNTS:
        count = schema.get(name, 0)
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MAX_COUNT:
            raise _refusal(field, name, f"a whole number from 0 to {MAX_COUNT}", count)
    for name in _LISTS:
        if not isinstance(schema.get(name, []), list):
            raise _refusal(field, name, "a list", schema[name])
    for name in _MAPS:
        if not isinstance(schema.get(name, {}), dict):
            raise _refusal(field, name, "an object", schema[name])
    types = schema.get("type", "object")
    for type_ in types if isinstance(types, list) else [types]:
        if type_ not in _TYPES:
            raise _refusal(field, "type", "a type of JSON", type_)
    reference = schema.get("$ref", ROOT)
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise _refusal(field, "$ref", "a place in the schema itself, like #/$defs/name", reference)
    for pattern in (schema.get("pattern", ""), *schema.get("patternProperties", {})):
        if not isinstance(pattern, str) or len(pattern) > MAX_PATTERN:
            raise _refusal(field, "pattern", f"a text of at most {MAX_PATTERN} characters", pattern)
        _check_pattern(pattern, field)


def _check_pattern(pattern: str, field: str) -> None:
    """Raises InvalidInput for large counts, and for a repeated repetition: both multiply."""
    for low, _, high in _BRACES.findall(pattern):
        if any(len(number) > 4 or int(number) > MAX_REPEATS for number in (low, high) if number):
            raise InvalidInput(
                f"{field}: pattern: expected repetitions of at most {MAX_REPEATS} times, got "
                f"{shown(pattern)}",
                field=field,
            )
    plain = re.sub(r"\\.", "x", pattern)
    plain = re.sub(r"\[[^\]]*\]", "x", plain)
    repeats = [False]
    """For each open group, whether it contains a repetition."""
    closed_repeats = False
    """Whether the group closed last contains a repetition."""
    for index, character in enumerate(plain):
        if character == "(":
            repeats.append(False)
        elif character == ")":
            closed_repeats = repeats.pop() if len(repeats) > 1 else False
            repeats[-1] |= closed_repeats
        elif character in "*+{":
            if closed_repeats and plain[index - 1 : index] == ")":
                raise InvalidInput(
                    f"{field}: pattern {shown(pattern)} repeats a repetition", field=field
                )
            repeats[-1] = True


def _refusal(field: str, keyword: str, expected: str, value: Any) -> InvalidInput:
    return InvalidInput(f"{field}: {keyword}: expected {expected}, got {shown(value)}", field=field)
