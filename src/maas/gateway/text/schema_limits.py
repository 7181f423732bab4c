"""What a caller's JSON Schema may cost: an engine turns it into a grammar, and grammars explode.

Checked here is what no engine could take; whether it can enforce a keyword is the engine's to say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any
from urllib.parse import unquote

from maas.domain.errors import InvalidInput
from maas.domain.names import shown
from maas.gateway.text.json_body import check_size, kind_of

MAX_COUNT = 4_096
"""Of characters, items or properties."""
MAX_REPEATS = 2_000
"""Within a pattern: engines write repetitions out."""
MAX_MULTIPLE, MAX_DECIMALS = 10_000, 9
"""Of multipleOf without its point: engines count up to it. For parts that hold together also what
all are multiples of."""
MAX_MULTIPLES = 200_000
"""All different ones together."""
MAX_TEXT, MAX_TEXTS = 32_000, 100_000
"""Characters of one text, and of all with the names."""
MAX_PATTERN = 256
MAX_NESTED = 200
"""Levels of objects, with those behind references: the libraries of engines go down by recursion,
and would end the process. 390 fit into the 2 MiB that a thread has at least."""
MAX_STEPS = 20_000
"""With which ways through circles of references are looked for."""
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_BRACES = re.compile(r"\{(\d*)(,?)(\d*)\}")
_LISTS = ("enum", "anyOf", "oneOf", "allOf", "prefixItems", "required")
_MAPS = ("properties", "$defs", "definitions", "patternProperties")
MAX_REFERRED = 20_000
"""Values at all places together that references lead to, which may lie within each other."""
_NOTES = {
    "title", "description", "default", "examples", "example", "$comment", "deprecated", "readOnly",
    "writeOnly", "nullable", "$defs", "definitions", "$schema", "$id",
}  # fmt: skip
"""Keywords that say nothing about what is valid."""
_DEFINITIONS = ("$defs", "definitions")
_INNER = ("items", "additionalProperties", "not", "if", "then", "else", "contains")


def check_schema(schema: Any, field: str) -> None:
    """Raises InvalidInput for a schema that is none, too large, reaches outside itself, or whose
    repetitions or patterns multiply."""
    if not isinstance(schema, dict):
        raise InvalidInput(f"{field}: expected a JSON Schema object, got {kind_of(schema)}",
                           field=field)  # fmt: skip
    check_size(schema, field)
    _check_texts(schema, field)
    targets = _targets(schema, field)
    referred = [target.value for name, target in targets.items() if name != "#"]
    waiting = [schema, *(value for value in referred if isinstance(value, dict))]
    seen: set[int] = set()
    steps: set[Fraction] = set()
    joined: list[dict[str, Any]] = []
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if one is not schema:
            _check_id(one, schema, field)
        _check_one(one, field)
        waiting += _inside(one)
        if "multipleOf" in one:
            steps.add(_multiple(one["multipleOf"], field))
        if _joins(one):
            joined.append(one)
    if sum(step.numerator for step in steps) > MAX_MULTIPLES:
        raise InvalidInput(f"{field}: too many different large multipleOf", field=field)
    if len(steps) > 1:
        _check_joined(joined, targets, field)
    _check_nesting(targets, field)
    _check_copies(targets, field)


def _joins(one: dict[str, Any]) -> bool:
    """Whether engines make one schema of several that hold together."""
    limits = one.keys() - _NOTES
    parts = {"$ref", "allOf", "anyOf", "oneOf"} & limits
    several = len(one["allOf"]) > 1 if isinstance(one.get("allOf"), list) else False
    return several or (bool(parts) and len(limits) > 1) or "patternProperties" in one


def _check_joined(joined: list[dict[str, Any]], targets: dict[str, _Target], field: str) -> None:
    """What must be a multiple of several numbers is one of their least common one."""
    left = MAX_REFERRED
    for one in joined:
        found, left = _multiples(one, targets, left)
        if left < 0:
            raise InvalidInput(f"{field}: too many parts with multipleOf hold together",
                               field=field)  # fmt: skip
        for steps in found:
            _multiple(_common([_multiple(step, field) for step in steps]), field)


def _multiples(
    schema: dict[str, Any], targets: dict[str, _Target], most: int
) -> tuple[list[list[Any]], int]:
    """The multiples in `schema` that may be of the same value: those of properties of one name, or
    all if a property may stand for others. With them how many of `most` steps are left."""
    of_name: dict[str, list[Any]] = {}
    seen: set[tuple[int, str]] = set()
    waiting: list[tuple[Any, str]] = [(schema, "")]
    is_mixed = False
    while waiting and most >= 0:
        part, name = waiting.pop()
        if (id(part), name) in seen:
            continue
        seen.add((id(part), name))
        most -= 1
        if isinstance(part, list):
            waiting += [(inner, name) for inner in part]
        if not isinstance(part, dict):
            continue
        if "multipleOf" in part:
            of_name.setdefault(name, []).append(part["multipleOf"])
        is_mixed = is_mixed or bool({"patternProperties", "additionalProperties"} & part.keys())
        for key, inner in part.items():
            if key in ("properties", "patternProperties") and isinstance(inner, dict):
                own = key == "properties"
                waiting += [(value, other if own else name) for other, value in inner.items()]
            elif key == "$ref" and isinstance(inner, str):
                waiting.append((targets[inner].value if inner in targets else None, name))
            elif key not in _NOTES and key not in ("const", "enum", "multipleOf"):
                waiting.append((inner, name))
    if is_mixed:
        return [[step for steps in of_name.values() for step in steps]], most
    return list(of_name.values()), most


def _check_copies(targets: dict[str, _Target], field: str) -> None:
    """Engines copy what a `$ref` leads to where it holds together with something else, and so what
    that copies."""
    copies = {name: _copied(target.value) for name, target in targets.items()}
    sizes: dict[str, int] = {}
    for start in targets:
        waiting = [(start, False)]
        opened: set[str] = set()
        while waiting:
            name, is_last = waiting.pop()
            if is_last:
                # Of those that lead back here the library says itself that it cannot.
                copied = sum(sizes.get(other, 0) for other in copies[name])
                sizes[name] = targets[name].count + copied
                if sizes[name] > MAX_REFERRED:
                    raise InvalidInput(f"{field}: its $ref lead to each other too often",
                                       field=field)  # fmt: skip
            elif name not in sizes and name not in opened:
                opened.add(name)
                waiting.append((name, True))
                waiting += [(other, False) for other in copies[name]]
    if sum(sizes[name] for name in targets if copies[name]) > MAX_REFERRED:
        raise InvalidInput(f"{field}: its $ref lead to each other too often", field=field)


def _copied(value: Any) -> list[str]:
    """The references in `value` that hold together with something else."""
    found: list[str] = []
    level = [value]
    while level:
        for item in level:
            if not isinstance(item, dict):
                continue
            if isinstance(item.get("$ref"), str) and len(item.keys() - _NOTES) > 1:
                found.append(item["$ref"])
            if isinstance(item.get("allOf"), list) and _joins(item):
                inner = [part for part in item["allOf"] if isinstance(part, dict)]
                found += [part["$ref"] for part in inner if isinstance(part.get("$ref"), str)]
        level = _contents(level)
    return found


def _multiple(step: Any, field: str) -> Fraction:
    """Raises InvalidInput unless it is one that engines can count."""
    expected = f"a number above 0 with at most {MAX_DECIMALS} decimals, and at most {MAX_MULTIPLE}"
    expected += " without its point"
    if isinstance(step, bool) or not isinstance(step, int | float | Fraction) or step <= 0:
        raise _wrong(field, "multipleOf", expected, step)
    exact = step if isinstance(step, Fraction) else Fraction(str(step))
    places = next((n for n in range(MAX_DECIMALS + 1) if (exact * 10**n).denominator == 1), None)
    if places is None or exact * 10**places > MAX_MULTIPLE:
        raise _wrong(field, "multipleOf", expected, str(step))
    return exact


def _common(steps: list[Fraction]) -> Fraction:
    """The least number that is a multiple of all; 1 if there are none."""
    if not steps:
        return Fraction(1)
    denominator = math.lcm(*(step.denominator for step in steps))
    return Fraction(math.lcm(*(int(step * denominator) for step in steps)), denominator)


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
                    f"{field}: at most {MAX_TEXT} characters in a text and {MAX_TEXTS} in all",
                    field=field,
                )
        level = _contents(level)


def _contents(level: list[Any]) -> list[Any]:
    """All that is in the objects and lists of `level`."""
    return [
        inner
        for item in level
        if isinstance(item, dict | list)
        for inner in (item.values() if isinstance(item, dict) else item)
    ]


def _check_id(part: dict[str, Any], root: dict[str, Any], field: str) -> None:
    """References are looked up from the root. A part with a name of its own would be the root of
    those in it, which would lead elsewhere."""
    drafts = f"{root.get('$schema')} {part.get('$schema')}"
    names = ["$id", "id"] if "draft-03" in drafts or "draft-04" in drafts else ["$id"]
    if any(isinstance(part.get(name), str) for name in names):
        raise InvalidInput(f"{field}: only the whole schema may have an {names[-1]}, no part",
                           field=field)  # fmt: skip


@dataclass(frozen=True)
class _Target:
    """What a reference leads to."""

    value: Any
    levels: int
    """Of objects in it."""
    refers: set[str]
    """The references in it."""
    count: int
    """Of values in it."""

    @classmethod
    def of(cls, value: Any) -> _Target:
        levels, count = 0, 0
        refers: set[str] = set()
        waiting = [(value, 0)]
        while waiting:
            item, depth = waiting.pop()
            count += 1
            if isinstance(item, dict):
                depth += 1
                levels = max(levels, depth)
                if isinstance(item.get("$ref"), str):
                    refers.add(item["$ref"])
            waiting += [(inner, depth) for inner in _contents([item])]
        return cls(value, levels, refers, count)


def _targets(schema: dict[str, Any], field: str) -> dict[str, _Target]:
    """What the schema's references lead to, with what those lead to; `#` is the schema without
    its definitions."""
    targets: dict[str, _Target] = {}
    waiting, seen = ["#"], 0
    while waiting:
        reference = waiting.pop()
        if reference in targets:
            continue
        value = _at(schema, reference)
        if reference == "#":
            value = {k: v for k, v in schema.items() if k not in _DEFINITIONS}
        target = targets[reference] = _Target.of(value)
        seen += target.count
        if seen > MAX_REFERRED:
            raise InvalidInput(f"{field}: its $ref lead to each other too often", field=field)
        waiting += target.refers
    return targets


def _check_nesting(targets: dict[str, _Target], field: str) -> None:
    levels = {name: target.levels for name, target in targets.items()}
    refers = {name: target.refers for name, target in targets.items()}
    if _deepest(levels, refers) > MAX_NESTED and not _is_shallow(levels, refers):
        raise InvalidInput(
            f"{field}: at most {MAX_NESTED} levels deep, with what $ref leads to", field=field
        )


def _is_shallow(levels: dict[str, int], refers: dict[str, set[str]]) -> bool:
    """Whether every way through references is found to be short within a number of steps: the
    kinds of nodes of a syntax tree lead to each other, but through one that knows all."""
    steps = 0
    way: list[str] = []
    depth = 0
    waiting: list[Iterator[str]] = [iter(["#"])]
    while waiting:
        name = next(waiting[-1], None)
        if name is None:
            waiting.pop()
            if way:
                depth -= levels[way.pop()]
            continue
        steps += 1
        if name in way:
            continue
        depth += levels[name]
        if depth > MAX_NESTED or steps > MAX_STEPS:
            return False
        way.append(name)
        waiting.append(iter(refers[name]))
    return True


def _at(schema: Any, reference: str) -> Any:
    """What is at a JSON pointer (RFC 6901); None if there is nothing."""
    for part in unquote(reference).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(schema, list) and name.isdecimal() and int(name[:6]) < len(schema):
            schema = schema[int(name)]
        elif isinstance(schema, dict) and name in schema:
            schema = schema[name]
        else:
            return None
    return schema


def _deepest(levels: dict[str, int], refers: dict[str, set[str]]) -> int:
    """Most levels on any way through references, or more: those that lead back to where they come
    from all count."""
    referred: dict[str, set[str]] = {name: set() for name in levels}
    for name, others in refers.items():
        for other in others:
            referred[other].add(name)
    below, above = _outside_in(levels, refers, referred), _outside_in(levels, referred, refers)
    circle = sum(levels[name] for name in levels.keys() - below.keys() - above.keys())
    return max(below.values(), default=0) + circle + max(above.values(), default=0) * bool(circle)


def _outside_in(
    levels: dict[str, int], nexts: dict[str, set[str]], lasts: dict[str, set[str]]
) -> dict[str, int]:
    """Of those from which no way along `nexts` leads into a circle: the levels of the longest."""
    left = {name: len(others) for name, others in nexts.items()}
    ready = [name for name, count in left.items() if not count]
    found: dict[str, int] = {}
    while ready:
        name = ready.pop()
        found[name] = levels[name] + max((found[other] for other in nexts[name]), default=0)
        for last in lasts[name]:
            left[last] -= 1
            if not left[last]:
                ready.append(last)
    return found


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
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MAX_COUNT:
            raise _wrong(field, name, f"a whole number from 0 to {MAX_COUNT}", count)
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
