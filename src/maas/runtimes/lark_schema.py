"""A JSON schema as Lark, where numbers in it would not end.

A model may write digits for as long as a schema lets it. No JSON schema says how many digits a
number has, but for its multiples, and llama.cpp's LLGuidance knows no multiples below 0. In Lark a
number can be a sign and a schema for what stands behind it. So objects, arrays and alternatives
around such a number are written as rules here; all else stays a JSON schema within them.

Lark as LLGuidance reads it: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from maas.runtimes.json_schema import (
    BOUNDS,
    NOTES,
    OF_TYPES,
    REFERENCE,
    Interval,
    each_schema,
    kinds,
    repeated,
)

MAX_RULES = 2000
"""A schema that would have more stays as it is."""
MAX_PARTS = 2000
"""Of an object: properties times those that it may begin with."""
MAX_OPTIONAL = 8
"""Items of an array with schemas of their own that may be left out. Each is a rule in another's,
and the library follows rules in rules by recursion."""
_NUMBERS = ("number", "integer")
_DIGITS, _FRACTION = "[0-9]{0,15}", r"(?:\.[0-9]{1,16})?"
_EXPONENT = "(?:[1-9][0-9]?|[12][0-9]{2})"
_NUMBER = f"/-?(?:(?:0|[1-9]{_DIGITS}){_FRACTION}|[1-9]{_FRACTION}[eE][+-]?{_EXPONENT})/"
"""As precise and as large as what readers of JSON keep: their numbers have 53 bits and end before
1e309."""
_ZERO = {"number": r"/0(?:\.0{1,9})?/", "integer": '"0"'}

Leaf = Callable[[dict[str, Any]], str]
"""What Lark holds for a schema that needs nothing of this."""


def lark_schema(schema: dict[str, Any], leaf: Leaf) -> str | None:
    """Rules from `start`; None if `schema` needs none, or has what cannot be said here."""
    if not _needs_rules(schema) or not _can_be_parted(schema):
        return None
    try:
        return _Rules(schema, leaf).text()
    except _TooMany:
        return None


class _TooMany(Exception):
    """It would have too many rules."""


def _has_end(schema: dict[str, Any]) -> bool:
    """Whether its numbers end without a rule, or cannot have one."""
    found = [kind for kind in _NUMBERS if kind in kinds(schema)]
    known = NOTES | BOUNDS | {"type"}
    for kind in kinds(schema):
        known = known | OF_TYPES.get(kind, set()) if isinstance(kind, str) else known
    if not found or not schema.keys() <= known:
        return True
    try:
        interval = Interval.of(schema)
    except ValueError:
        return True  # and the library will say what is wrong
    step = schema.get("multipleOf", 1)
    if isinstance(step, bool) or not isinstance(step, int | float) or step <= 0:
        return True
    if interval.low >= 0:
        return True  # `json_grammar` adds a bound and a multiple
    return found == ["integer"] and "multipleOf" not in schema


def _needs_rules(schema: dict[str, Any]) -> bool:
    needs = False

    def look(part: dict[str, Any]) -> dict[str, Any]:
        nonlocal needs
        needs = needs or not _has_end(part)
        return part

    each_schema(schema, look)
    return needs


def _can_be_parted(schema: dict[str, Any]) -> bool:
    """Whether references in it stay true when it is taken apart."""
    can = True

    def look(part: dict[str, Any]) -> dict[str, Any]:
        nonlocal can
        reference = part.get("$ref", "#/$defs/_")
        is_plain = isinstance(reference, str) and REFERENCE.fullmatch(reference)
        can = can and bool(is_plain) and not {"$id", "$anchor", "$dynamicRef"} & part.keys()
        return part

    each_schema(schema, look)
    return can


class _Rules:
    def __init__(self, root: dict[str, Any], leaf: Leaf) -> None:
        self._root = root
        self._leaf_of = leaf
        self._rules: list[str] = []
        self._named: dict[str, str] = {}
        """Rules of definitions, by reference."""
        self._unwritten: list[tuple[str, Any]] = []
        """Of those: the rule and its schema."""

    def text(self) -> str:
        start = self._node(self._root)
        while self._unwritten:
            name, schema = self._unwritten.pop()
            self._add(name, self._node(schema))
        return "\n".join([f"start: {start}", *self._rules, ""])

    def _add(self, name: str, body: str) -> str:
        if len(self._rules) >= MAX_RULES:
            raise _TooMany
        self._rules.append(f"{name}: {body}")
        return name

    def _rule(self, body: str) -> str:
        return self._add(f"rule{len(self._rules)}", body)

    def _leaf(self, schema: dict[str, Any]) -> str:
        return self._leaf_of(schema | self._reachable(schema))

    def _reachable(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The definitions that `schema` refers to, and those that these do."""
        found: dict[str, dict[str, Any]] = {}
        left = [json.dumps(schema)] if "$ref" in json.dumps(schema) else []
        while left:
            for reference in REFERENCE.finditer(left.pop()):
                place, name = reference.groups()
                known = self._definition(place, name)
                if known is not None and name not in found.setdefault(place, {}):
                    found[place][name] = known
                    left.append(json.dumps(known))
        return found

    def _definition(self, place: str, name: str) -> Any:
        definitions = self._root.get(place)
        return definitions.get(name) if isinstance(definitions, dict) else None

    def _node(self, schema: Any) -> str:
        """An expression for what `schema` allows."""
        if not isinstance(schema, dict):
            return self._leaf({} if schema is True else {"not": {}})
        limits = schema.keys() - NOTES
        if limits == {"$ref"}:
            return self._reference(schema["$ref"])
        if not _needs_rules(schema) and "$ref" not in json.dumps(schema):
            return self._leaf(schema)
        if limits == {"anyOf"} and isinstance(schema["anyOf"], list) and schema["anyOf"]:
            return f"({' | '.join(self._node(part) for part in schema['anyOf'])})"
        if not _has_end(schema):
            return self._numbers(schema)
        if kinds(schema) == ["array"] and limits <= OF_TYPES["array"] | {"type"}:
            return self._array(schema)
        if kinds(schema) == ["object"] and limits <= OF_TYPES["object"] | {"type"}:
            return self._object(schema)
        return self._leaf(schema)

    def _reference(self, reference: str) -> str:
        found = REFERENCE.fullmatch(reference)
        known = self._definition(*found.groups()) if found else None
        if known is None:
            return self._leaf({"$ref": reference})
        if reference not in self._named:
            self._named[reference] = f"definition{len(self._named)}"
            self._unwritten.append((self._named[reference], known))
        return self._named[reference]

    def _numbers(self, schema: dict[str, Any]) -> str:
        """Some of which are below 0, and what else the schema allows."""
        kind = "number" if "number" in kinds(schema) else "integer"
        if not schema.keys() & BOUNDS:
            parts = [_NUMBER]
        else:
            interval = Interval.of(schema)
            parts = self._side(schema, kind, interval, "")
            parts += self._side(schema, kind, interval.negated, '"-" ')
        others = [other for other in kinds(schema) if other not in _NUMBERS]
        if others:
            rest = {key: value for key, value in schema.items() if key not in BOUNDS}
            parts.append(self._node(rest | {"type": others[0] if len(others) == 1 else others}))
        if not parts:
            return self._leaf(schema)  # the library says that no number is left
        return f"({' | '.join(parts)})"

    def _side(self, schema: dict[str, Any], kind: str, interval: Interval, sign: str) -> list[str]:
        """Numbers of `interval` from 0 on, written behind `sign`; none if there are none."""
        if interval.has_0 and interval.high == 0:
            return [] if sign else [_ZERO[kind]]
        side = replace(interval, low=0, is_open_below=False) if interval.has_0 else interval.above_0
        step = schema.get("multipleOf")
        if side is None or not side.has_multiple(step, is_whole=kind == "integer"):
            return []
        told = {} if step is None else {"multipleOf": step}
        return [sign + self._leaf({"type": kind} | side.keywords | told)]

    def _array(self, schema: dict[str, Any]) -> str:
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        first, items = schema.get("prefixItems", []), schema.get("items", True)
        if (
            not isinstance(low, int)
            or not isinstance(high, int | None)
            or (high is not None and high < low)
            or not isinstance(first, list)
            or isinstance(items, list)
            or len(first[:high]) - low > MAX_OPTIONAL
        ):
            return self._leaf(schema)
        first = first[:high]
        more = high is None or high > len(first)
        body = ""
        if more and items is not False:
            item = self._rule(self._node(items))
            least, most = max(low - len(first), 0), None if high is None else high - len(first)
            body = repeated(item, '","', least, most, is_first=not first)
        elif low > len(first):
            return self._leaf(schema)
        for at in reversed(range(len(first))):
            comma = '"," ' if at else ""
            body = f"{comma}{self._rule(self._node(first[at]))} {body}"
            if at >= low:
                body = self._rule(f"({body})?")
        return f'"[" {body} "]"'

    def _object(self, schema: dict[str, Any]) -> str:
        """In the order in which the schema has the names; what others it allows come last."""
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if (
            not isinstance(properties, dict)
            or not isinstance(required, list)
            or not all(isinstance(name, str) and name in properties for name in required)
        ):
            return self._leaf(schema)
        must = [at for at, name in enumerate(properties) if name in required]
        begins_with = must[0] + 1 if must else len(properties)
        if begins_with * len(properties) > MAX_PARTS:
            return self._leaf(schema)
        pairs = [self._pair(name, value) for name, value in properties.items()]
        others = schema.get("additionalProperties", True)
        other = "" if others is False else self._other_pair(properties, others)
        tail = [f'"," {pair}' if at in must else f'("," {pair})?' for at, pair in enumerate(pairs)]
        last = f'("," {other})*' if other else ""
        ways = [" ".join([pairs[at], *tail[at + 1 :], last]) for at in range(begins_with)]
        if not must and other:
            ways.append(f"{other} {last}")
        if not ways:
            return '"{}"'
        body = f"({self._rule(' | '.join(ways))})"
        return f'"{{" {body} "}}"' if must else f'"{{" {body}? "}}"'

    def _pair(self, name: str, value: Any) -> str:
        key = json.dumps(json.dumps(name, ensure_ascii=False) + ":", ensure_ascii=False)
        return self._rule(f"{key} {self._node(value)}")

    def _other_pair(self, names: Iterable[str], value: Any) -> str:
        """With any name but `names`, without characters that JSON escapes."""
        known = "|".join("".join(f"\\x{{{ord(c):X}}}" for c in name) for name in names)
        other = rf' & ~/"(?:{known})"/' if known else ""
        name = self._add(f"NAME{len(self._rules)}", r'/"[^"\\\x00-\x1F\x7F]*"/' + other)
        return self._rule(f'{name} ":" {self._node(value)}')
