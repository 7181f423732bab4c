"""JSON schemas as Lark grammars, where numbers in them would have no end.

A model may generate digits as long as the schema allows. Only `multipleOf` limits the digits of a
number, and llama.cpp's LLGuidance does not support it for negative numbers. In Lark a number can be
a sign followed by a schema. So objects, arrays and alternatives around such a number become rules;
everything else remains a JSON schema inside them.

Lark as LLGuidance reads it: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any

from maas.domain.json_schema import ANNOTATIONS
from maas.runtimes.schemas.keywords import (
    BOUNDS,
    OF_TYPES,
    REFERENCE,
    Interval,
    each_schema,
    repeated,
    types_of,
)

MAX_RULES = 2000
"""A schema that would need more remains a JSON schema."""
MAX_BYTES = 1 << 20
"""Size of all JSON schemas in the rules."""
MAX_PARTS = 2000
"""Parts of an object or array: its properties or items, times those that may come first or last."""
_NUMBERS = ("number", "integer")
_DIGITS, _FRACTION = "[0-9]{0,15}", r"(?:\.[0-9]{1,16})?"
_EXPONENT = "(?:[1-9][0-9]?|[12][0-9]{2})"
_NUMBER = f"/-?(?:(?:0|[1-9]{_DIGITS}){_FRACTION}|[1-9]{_FRACTION}[eE][+-]?{_EXPONENT})/"
"""As precise and as large as JSON parsers support: 53 bits, below 1e309."""
_ZERO = {"number": r"/0(?:\.0{1,9})?/", "integer": '"0"'}

Leaf = Callable[[dict[str, Any]], str]
"""The Lark expression for a schema that needs no rules."""


def lark_schema(schema: dict[str, Any], leaf: Leaf) -> str | None:
    """A grammar with the rule `start`; None if `schema` needs none, or cannot be split."""
    if not _needs_rules(schema) or not _can_be_split(schema):
        return None
    try:
        return _Rules(schema, leaf).text()
    except _TooLargeError:
        return None


class _TooLargeError(Exception):
    """The grammar would have too many rules or bytes."""


def _is_finite(schema: dict[str, Any]) -> bool:
    """Whether its numbers have an end without rules, or rules cannot express it."""
    types = [kind for kind in _NUMBERS if kind in types_of(schema)]
    if not types or not _is_typed(schema):
        return True
    try:
        interval = Interval.of(schema)
    except ValueError:
        return True  # the library reports the error
    step = schema.get("multipleOf", 1)
    if isinstance(step, bool) or not isinstance(step, int | float) or step <= 0:
        return True
    if interval.low >= 0:
        return True  # `json_grammar` adds a bound and a multiple
    return types == ["integer"] and "multipleOf" not in schema


def _is_typed(schema: dict[str, Any]) -> bool:
    """Whether `schema` has types, and no keywords except those that apply to one of them."""
    keywords = ANNOTATIONS | {"type"}
    for kind in types_of(schema):
        if not isinstance(kind, str) or kind not in OF_TYPES:
            return False
        keywords = keywords | OF_TYPES[kind]
    return bool(types_of(schema)) and schema.keys() <= keywords


def _of_type(schema: dict[str, Any], kind: str) -> dict[str, Any]:
    """The part of `schema` for values of one of its types."""
    return {"type": kind} | {k: v for k, v in schema.items() if k in OF_TYPES[kind]}


def _needs_rules(schema: dict[str, Any]) -> bool:
    needs = False

    def check(part: dict[str, Any]) -> dict[str, Any]:
        nonlocal needs
        needs = needs or not _is_finite(part)
        return part

    each_schema(schema, check)
    return needs


def _can_be_split(schema: dict[str, Any]) -> bool:
    """Whether references in it remain valid when it is split."""
    can = True

    def check(part: dict[str, Any]) -> dict[str, Any]:
        nonlocal can
        reference = part.get("$ref", "#/$defs/_")
        is_plain = isinstance(reference, str) and REFERENCE.fullmatch(reference)
        can = can and bool(is_plain) and not {"$id", "$anchor", "$dynamicRef"} & part.keys()
        return part

    each_schema(schema, check)
    return can


class _Rules:
    def __init__(self, root: dict[str, Any], leaf: Leaf) -> None:
        self._root = root
        self._leaf_of = leaf
        self._rules: list[str] = []
        self._bytes = 0
        self._rule_names: dict[str, str] = {}
        """Rules of definitions, by reference."""
        self._pending: list[tuple[str, Any]] = []
        """Names and schemas of rules that are still to be added."""

    def text(self) -> str:
        start = self._node(self._root)
        while self._pending:
            name, schema = self._pending.pop()
            self._add(name, self._node(schema))
        return "\n".join([f"start: {start}", *self._rules, ""])

    def _add(self, name: str, body: str) -> str:
        if len(self._rules) >= MAX_RULES:
            raise _TooLargeError
        self._rules.append(f"{name}: {body}")
        return name

    def _rule(self, body: str) -> str:
        return self._add(f"rule{len(self._rules)}", body)

    def _leaf(self, schema: dict[str, Any]) -> str:
        text = self._leaf_of(schema | self._reachable(schema))
        self._bytes += len(text)
        if self._bytes > MAX_BYTES:
            raise _TooLargeError
        return text

    def _reachable(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The definitions that `schema` refers to, directly or indirectly."""
        reachable: dict[str, dict[str, Any]] = {}
        left = [json.dumps(schema)] if "$ref" in json.dumps(schema) else []
        while left:
            for reference in REFERENCE.finditer(left.pop()):
                place, name = reference.groups()
                definition = self._definition(place, name)
                if definition is None or name in reachable.setdefault(place, {}):
                    continue
                reachable[place][name] = definition
                left.append(json.dumps(definition))
        return reachable

    def _definition(self, place: str, name: str) -> Any:
        definitions = self._root.get(place)
        return definitions.get(name) if isinstance(definitions, dict) else None

    def _node(self, schema: Any) -> str:
        """A Lark expression for `schema`."""
        if not isinstance(schema, dict):
            return self._leaf({} if schema is True else {"not": {}})
        limits = schema.keys() - ANNOTATIONS
        if limits == {"$ref"}:
            return self._reference(schema["$ref"])
        if not _needs_rules(schema) and "$ref" not in json.dumps(schema):
            return self._leaf(schema)
        if limits == {"anyOf"} and isinstance(schema["anyOf"], list) and schema["anyOf"]:
            return f"({' | '.join(self._node(part) for part in schema['anyOf'])})"
        if not _is_typed(schema):
            return self._leaf(schema)
        types = types_of(schema)
        if "number" in types:
            types = [kind for kind in types if kind != "integer"]
        if len(types) > 1:
            parts = [self._node(_of_type(schema, kind)) for kind in types]
            return f"({' | '.join(parts)})"
        if not _is_finite(schema):
            return self._numbers(_of_type(schema, types[0]))
        if types == ["array"]:
            return self._array(schema)
        if types == ["object"]:
            return self._object(schema)
        return self._leaf(schema)

    def _reference(self, reference: str) -> str:
        match = REFERENCE.fullmatch(reference)
        definition = self._definition(*match.groups()) if match else None
        if definition is None:
            return self._leaf({"$ref": reference})
        if reference not in self._rule_names:
            self._rule_names[reference] = f"definition{len(self._rule_names)}"
            self._pending.append((self._rule_names[reference], definition))
        return self._rule_names[reference]

    def _numbers(self, schema: dict[str, Any]) -> str:
        """Numbers of which some are negative."""
        if not schema.keys() & BOUNDS:
            return _NUMBER
        interval = Interval.of(schema)
        parts = self._side(schema, interval, "") + self._side(schema, interval.negated, '"-" ')
        if not parts:
            return self._leaf(schema)  # the library reports that there are none
        return f"({' | '.join(parts)})"

    def _side(self, schema: dict[str, Any], interval: Interval, sign: str) -> list[str]:
        """The numbers of `interval` that are at least 0, after `sign`; empty if there are none."""
        kind = schema["type"]
        side = interval.above_0
        if interval.has_0:
            if interval.high == 0:
                return [] if sign else [_ZERO[kind]]
            side = replace(interval, low=0, is_open_below=False)
        if side is None:
            return []
        part = {"type": kind} | side.keywords
        if schema.get("multipleOf") is not None:
            part["multipleOf"] = schema["multipleOf"]
        return [sign + self._leaf(part)]

    def _array(self, schema: dict[str, Any]) -> str:
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        first, items = schema.get("prefixItems", []), schema.get("items", True)
        if (
            not isinstance(low, int)
            or not isinstance(high, int | None)
            or (high is not None and high < low)
            or not isinstance(first, list)
            or isinstance(items, list)
            or len(first[:high]) ** 2 > MAX_PARTS
        ):
            return self._leaf(schema)
        first = first[:high]
        rest = ""
        if items is not False and (high is None or high > len(first)):
            item = self._rule(self._node(items))
            least, most = max(low - len(first), 0), None
            if high is not None:
                most = high - len(first)
            rest = repeated(item, '","', least, most, is_first=not first)
        elif low > len(first):
            return self._leaf(schema)
        if not first:
            return f'"[" {rest} "]"'
        rules = [self._rule(self._node(part)) for part in first]
        sequences = [' "," '.join(rules[:count]) for count in range(max(low, 1), len(first))]
        sequences.append(' "," '.join(rules) + f" {rest}")
        return self._enclosed("[", sequences, "]", may_be_empty=low == 0)

    def _object(self, schema: dict[str, Any]) -> str:
        """Properties in the order of the schema, then others that it allows."""
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if (
            not isinstance(properties, dict)
            or not isinstance(required, list)
            or not all(isinstance(name, str) for name in required)
        ):
            return self._leaf(schema)
        others = schema.get("additionalProperties", True)
        missing = {name: others for name in required if name not in properties}
        if missing and others is False:
            return self._leaf(schema)
        properties = properties | missing
        starts = _possible_starts(properties, required)
        if starts * len(properties) > MAX_PARTS:
            return self._leaf(schema)
        pairs, following = [], []
        for name, value in properties.items():
            pair = self._pair(name, value)
            pairs.append(pair)
            following.append(f'"," {pair}' if name in required else f'("," {pair})?')
        other, last = "", ""
        if others is not False:
            other = self._other_pair(properties, others)
            last = f'("," {other})*'
        sequences = [" ".join([pairs[at], *following[at + 1 :], last]) for at in range(starts)]
        if other and not required:
            sequences.append(f"{other} {last}")
        return self._enclosed("{", sequences, "}", may_be_empty=not required)

    def _enclosed(
        self, opening: str, alternatives: list[str], closing: str, *, may_be_empty: bool
    ) -> str:
        if not alternatives:
            return f'"{opening}{closing}"'
        optional = "?" if may_be_empty else ""
        return f'"{opening}" ({self._rule(" | ".join(alternatives))}){optional} "{closing}"'

    def _pair(self, name: str, value: Any) -> str:
        key = json.dumps(json.dumps(name, ensure_ascii=False) + ":", ensure_ascii=False)
        return self._rule(f"{key} {self._node(value)}")

    def _other_pair(self, names: Collection[str], value: Any) -> str:
        """A pair with any name except `names`, without characters that JSON escapes."""
        pattern = r'/"[^"\\\x00-\x1F\x7F]*"/'
        escaped = "|".join(map(_escaped, names))
        if names:
            pattern += rf' & ~/"(?:{escaped})"/'
        name = self._add(f"NAME{len(self._rules)}", pattern)
        return self._rule(f'{name} ":" {self._node(value)}')


def _possible_starts(properties: Iterable[str], required: list[str]) -> int:
    """Number of properties that may come first: all up to the first required one."""
    count = 0
    for name in properties:
        count += 1
        if name in required:
            break
    return count


def _escaped(name: str) -> str:
    """A pattern that matches `name` literally."""
    return "".join(f"\\x{{{ord(character):X}}}" for character in name)
