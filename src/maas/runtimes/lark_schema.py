"""A JSON schema as Lark, where numbers in it would not end.

A model may write digits for as long as a schema lets it. No JSON schema says how many digits a
number has, but for its multiples, and llama.cpp's LLGuidance knows no multiples below 0. In Lark a
number can be a sign and a schema for what stands behind it. So objects, arrays and alternatives
around such a number are written as rules here; all else stays a JSON schema within them.

Lark as LLGuidance reads it: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from maas.runtimes.json_schema import NOTES, Interval, each_schema, kinds

_NUMBERS = ("number", "integer")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_REF = re.compile(r"#/(\$defs|definitions)/([A-Za-z0-9_.-]+)")
_DIGITS, _FRACTION = r"[0-9]{0,15}", r"(?:\.[0-9]{1,16})?"
_EXPONENT = "(?:[1-9][0-9]?|[12][0-9]{2})"
_NUMBER = (
    rf"/-?(?:(?:0|[1-9]{_DIGITS}){_FRACTION}|[1-9]{_FRACTION}[eE][+-]?{_EXPONENT})/"
)  # fmt: skip
"""As precise and as large as what readers of JSON keep: their numbers have 53 bits and end before
1e309."""

Leaf = Callable[[dict[str, Any]], str]
"""What Lark holds for a schema that needs nothing of this."""


def lark_schema(schema: dict[str, Any], leaf: Leaf) -> str | None:
    """Rules from `start`; None if `schema` needs none, or has what cannot be said here."""
    if not _needs_rules(schema) or not _can_be_parted(schema):
        return None
    return _Rules(schema, leaf).text()


def _has_end(schema: dict[str, Any]) -> bool:
    """Whether its numbers end without a rule. All end that are of one sign and have a bound: what
    the bound and the multiples leave is finite."""
    found = [kind for kind in _NUMBERS if kind in kinds(schema)]
    if not found or "enum" in schema or "const" in schema:
        return True
    try:
        interval = Interval.of(schema)
    except ValueError:
        return True  # and the library will say what is wrong
    if interval.low >= 0:
        return True
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
        is_plain = isinstance(reference, str) and _REF.fullmatch(reference)
        can = can and bool(is_plain) and not {"$id", "$anchor", "$dynamicRef"} & part.keys()
        return part

    each_schema(schema, look)
    return can


class _Rules:
    def __init__(self, root: dict[str, Any], leaf: Leaf) -> None:
        self._definitions: dict[str, Any] = {
            k: root[k] for k in ("$defs", "definitions") if k in root
        }
        self._root = root
        self._leaf_of = leaf
        self._rules: list[str] = []
        self._named: dict[str, str] = {}
        """Rules of definitions, by reference."""

    def text(self) -> str:
        start = self._node(self._root)
        return "\n".join([f"start: {start}", *self._rules, ""])

    def _rule(self, body: str) -> str:
        name = f"rule{len(self._rules)}"
        self._rules.append(f"{name}: {body}")
        return name

    def _leaf(self, schema: dict[str, Any]) -> str:
        return self._leaf_of(
            schema | self._definitions if '"$ref"' in json.dumps(schema) else schema
        )

    def _node(self, schema: Any) -> str:
        """An expression for what `schema` allows."""
        if not isinstance(schema, dict):
            return self._leaf({} if schema is True else {"not": {}})
        limits = schema.keys() - NOTES
        if limits == {"$ref"}:
            return self._reference(schema["$ref"])
        if not _needs_rules(schema) and '"$ref"' not in json.dumps(schema):
            return self._leaf(schema)
        if limits == {"anyOf"} and isinstance(schema["anyOf"], list) and schema["anyOf"]:
            return f"({' | '.join(self._node(part) for part in schema['anyOf'])})"
        if not _has_end(schema):
            return self._numbers(schema)
        if kinds(schema) == ["array"]:
            return self._array(schema, limits - {"type"})
        if kinds(schema) == ["object"]:
            return self._object(schema, limits - {"type"})
        return self._leaf(schema)

    def _reference(self, reference: str) -> str:
        if reference not in self._named:
            found = _REF.fullmatch(reference)
            definitions = self._definitions.get(found[1]) if found else None
            if not found or not isinstance(definitions, dict) or found[2] not in definitions:
                return self._leaf({"$ref": reference})
            name = self._named[reference] = f"definition{len(self._named)}"
            self._rules.append(f"{name}: {self._node(definitions[found[2]])}")
        return self._named[reference]

    def _numbers(self, schema: dict[str, Any]) -> str:
        """Some of which are below 0, and what else the schema allows."""
        kind = "number" if "number" in kinds(schema) else "integer"
        if not schema.keys() & set(_BOUNDS):
            parts = [_NUMBER]
        else:
            interval = Interval.of(schema)
            step = {"multipleOf": schema["multipleOf"]} if "multipleOf" in schema else {}
            parts = ['"0"'] if interval.has_0 else []
            for sign, side in (("", interval.above_0), ('"-" ', interval.negated.above_0)):
                if side is not None:
                    parts.append(sign + self._leaf({"type": kind} | side.keywords | step))
        others = [other for other in kinds(schema) if other not in _NUMBERS]
        if others:
            rest = {key: value for key, value in schema.items() if key not in _BOUNDS}
            parts.append(self._node(rest | {"type": others[0] if len(others) == 1 else others}))
        return f"({' | '.join(parts)})"

    def _array(self, schema: dict[str, Any], limits: set[str]) -> str:
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        first, items = schema.get("prefixItems", []), schema.get("items", True)
        if (
            not limits <= {"items", "prefixItems", "minItems", "maxItems"}
            or not isinstance(low, int)
            or not isinstance(high, int | None)
            or (high is not None and high < low)
            or not isinstance(first, list)
            or isinstance(items, list)
        ):
            return self._leaf(schema)
        first = first[:high]
        more = high is None or high > len(first)
        body = ""
        if more and items is not False:
            item = self._rule(self._node(items))
            least, most = max(low - len(first), 0), None if high is None else high - len(first)
            body = _repeated(item, least, most, is_first=not first)
        elif low > len(first):
            return self._leaf(schema)
        for at in reversed(range(len(first))):
            comma = '"," ' if at else ""
            body = f"{comma}{self._rule(self._node(first[at]))} {body}"
            if at >= low:
                body = f"({body})?"
        return f'"[" {body} "]"'

    def _object(self, schema: dict[str, Any], limits: set[str]) -> str:
        """One whose names are all known, in the order in which the schema has them."""
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if (
            not limits <= {"properties", "required", "additionalProperties"}
            or schema.get("additionalProperties") is not False
            or not isinstance(properties, dict)
            or not isinstance(required, list)
            or any(name not in properties for name in required)
        ):
            return self._leaf(schema)
        # From the last to the first: what may follow a property, and what may begin the object.
        follows, begins = "", ""
        for name, value in reversed(properties.items()):
            key = json.dumps(json.dumps(name, ensure_ascii=False) + ":", ensure_ascii=False)
            pair = self._rule(f"{key} {self._node(value)}")
            if name in required:
                begins = self._rule(f"{pair} {follows}")
                follows = self._rule(f'"," {pair} {follows}')
            else:
                begins = self._rule(
                    f"({pair} {follows} | {begins})" if begins else f"({pair} {follows})?"
                )
                follows = self._rule(f'("," {pair})? {follows}')
        return f'"{{" {begins} "}}"'


def _repeated(item: str, low: int, high: int | None, *, is_first: bool) -> str:
    """`item` so many times with commas between them, and before them unless they come first."""
    if not is_first:
        return f'("," {item}){_times(low, high)}'
    more = f'{item} ("," {item}){_times(max(low - 1, 0), None if high is None else high - 1)}'
    return more if low else f"({more})?"


def _times(low: int, high: int | None) -> str:
    return f"{{{low},{'' if high is None else high}}}"
