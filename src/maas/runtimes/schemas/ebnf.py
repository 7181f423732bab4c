"""JSON schemas as EBNF grammars, for engines that enforce grammars but not all schemas: OpenVINO,
and llama.cpp with models whose tokens LLGuidance does not get unchanged (`llama_limits.py`).

OpenVINO GenAI's own conversion of schemas ignores unknown keywords, allows blanks without end, and
fails all sequences if a schema does not compile. Here a schema that is not certainly enforced is
refused. All that a grammar allows is valid, but it may allow less than the schema: no properties in
addition to those named, and keys in the order of the schema only.

Keywords: https://json-schema.org/draft/2020-12/json-schema-validation
"""

from __future__ import annotations

import json
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.json_schema import ANNOTATIONS
from maas.domain.names import shown
from maas.runtimes.schemas.keywords import OF_TYPES, REFERENCE, repeated

_OF_TYPES = OF_TYPES | {
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength"},
    "integer": {"minimum", "maximum"},
    "number": set(),
}
_EXCLUSIVE = ("$ref", "anyOf", "const", "enum")
"""Keywords that must be the only constraint of their schema."""
MAX_COUNT = 1000
"""Largest length in a schema; the grammar grows with it."""
MAX_DEPTH = 24
MAX_NODES = 1000
_BASE = r"""
blank ::= " "?
char ::= [^"\\\x00-\x1f\x7f] | "\\" ["\\/bfnrt]
string ::= "\"" char* "\""
integer ::= "-"? ("0" | [1-9] [0-9]{0,15})
number ::= integer ("." [0-9]{1,16})? ([eE] [+-]? [0-9]{1,2})?
boolean ::= "true" | "false"
null ::= "null"
object ::= "{" (pair ("," blank pair)*)? "}"
pair ::= string ":" blank value
array ::= "[" (value ("," blank value)*)? "]"
value ::= object | array | string | number | boolean | null
"""


def schema_grammar(response_format: dict[str, Any]) -> str:
    """The grammar of `Generation.response_format`, with the rule `root`. Raises InvalidInput if it
    cannot be enforced."""
    if response_format.get("type") == "json_object":
        return f"root ::= object\n{_BASE}"
    return _Grammar(response_format.get("schema", {})).text()


class _Grammar:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._nodes = 0
        self._rules: list[str] = []
        self._rule_names: dict[str, str] = {}
        """Rules of definitions, by reference."""
        self._open: set[str] = set()
        """References that are being followed, since the last literal character."""

    def text(self) -> str:
        root = self._node(self._root, 0)
        return "\n".join([f"root ::= {root}", *self._rules]) + _BASE

    def _rule(self, body: str) -> str:
        name = f"rule{len(self._rules)}"
        self._rules.append(f"{name} ::= {body}")
        return name

    def _node(self, schema: Any, depth: int) -> str:
        """A grammar expression for `schema`."""
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise _error(f"it has more than {MAX_DEPTH} levels or {MAX_NODES} parts")
        if schema is True:
            return "value"
        if not isinstance(schema, dict):
            raise _error(f"a schema must be an object, not {shown(schema)}")
        limits = schema.keys() - ANNOTATIONS
        for keyword in _EXCLUSIVE:
            if keyword in limits:
                _refuse_others(limits, {keyword, "type"} if keyword[0] in "ce" else {keyword})
                return self._exclusive(keyword, schema, depth)
        types = schema.get("type", [])
        types = [types] if isinstance(types, str) else _list(types, "type")
        unknown = [kind for kind in types if not isinstance(kind, str) or kind not in _OF_TYPES]
        if unknown:
            raise _error(f"there is no type {shown(unknown[0])}")
        _refuse_others(limits, {"type"}.union(*(_OF_TYPES[kind] for kind in types)))
        parts = [self._typed(kind, schema, depth) for kind in types]
        return f"({' | '.join(parts)})" if parts else "value"

    def _exclusive(self, keyword: str, schema: dict[str, Any], depth: int) -> str:
        value = schema[keyword]
        if keyword == "$ref":
            return self._reference(value, depth)
        if keyword == "anyOf":
            parts = [self._node(part, depth + 1) for part in _nonempty_list(value)]
            return f"({' | '.join(parts)})"
        values = [value] if keyword == "const" else _nonempty_list(value)
        for one in values:
            _check_type(one, schema.get("type"))
        return f"({' | '.join(map(_literal, values))})"

    def _reference(self, reference: object, depth: int) -> str:
        match = REFERENCE.fullmatch(reference) if isinstance(reference, str) else None
        definitions = self._root.get(match[1]) if match else None
        if not match or not isinstance(definitions, dict) or match[2] not in definitions:
            raise _error(f"there is nothing at {shown(reference)}")
        key = match[0]
        if key in self._open:
            raise _error(f"{key} refers to itself and nothing else")
        if key not in self._rule_names:
            name = self._rule_names[key] = f"definition{len(self._rule_names)}"
            self._open.add(key)
            body = self._node(definitions[match[2]], depth + 1)
            self._open.discard(key)
            self._rules.append(f"{name} ::= {body}")
        return self._rule_names[key]

    def _typed(self, kind: str, schema: dict[str, Any], depth: int) -> str:
        if kind == "string":
            low, high = _counts(schema, "minLength", "maxLength")
            if high is None and not low:
                return "string"
            return self._rule(f'"\\"" char{{{low},{"" if high is None else high}}} "\\""')
        if kind == "integer" and {"minimum", "maximum"} & schema.keys():
            return _range(schema)
        if kind == "array":
            return self._array(schema, depth)
        if kind == "object":
            return self._object(schema, depth)
        return kind

    def _array(self, schema: dict[str, Any], depth: int) -> str:
        low, high = _counts(schema, "minItems", "maxItems")
        # A rule, because it occurs twice, and llama.cpp expands repetitions.
        item = self._rule(self._nested(schema.get("items", True), depth))
        if high == 0:
            return '"[]"'
        items = repeated(item, '"," blank', low, high)
        return f'"[" {items} "]"'

    def _object(self, schema: dict[str, Any], depth: int) -> str:
        properties = schema.get("properties", {})
        required = _list(schema.get("required", []), "required")
        if not isinstance(properties, dict) or any(not isinstance(n, str) for n in required):
            raise _error("properties must be an object, and required a list of names")
        names = [*properties, *(name for name in required if name not in properties)]
        others = schema.get("additionalProperties", True)
        if not names:
            if others is False:
                return '"{}"'
            pair = f'string ":" blank {self._nested(others, depth)}'
            return f'"{{" ({pair} ("," blank {pair})*)? "}}"'
        missing = [name for name in required if name not in properties]
        if missing and others is not True:
            raise _error(f"required names {shown(missing[0])}, which is not among the properties")
        # From the last to the first: the rules that may follow a property or begin the object.
        follows, begins = '""', '""'
        for name in reversed(names):
            value = self._nested(properties.get(name, True), depth)
            pair = f'{_literal(name)} ":" blank {value} {follows}'
            if name in required:
                begins, follows = self._rule(pair), self._rule(f'"," blank {pair}')
            else:
                begins = self._rule(f"{pair} | {begins}")
                follows = self._rule(f'"," blank {pair} | {follows}')
        return f'"{{" {begins} "}}"'

    def _nested(self, schema: Any, depth: int) -> str:
        """As `_node`, after a literal character: references may recur from here on."""
        outer, self._open = self._open, set()
        try:
            return self._node(schema, depth + 1)
        finally:
            self._open = outer


def _literal(value: object) -> str:
    """A grammar expression for the JSON text of `value`."""
    text = json.dumps(value, allow_nan=False)
    if len(text) > 10 * MAX_COUNT:
        raise _error("a value is too long")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _check_type(value: object, kind: object) -> None:
    """Raises InvalidInput if `value` is not of the type, or types, `kind`."""
    if kind is None:
        return
    names = {str: "string", bool: "boolean", int: "integer", float: "number",
             type(None): "null", list: "array", dict: "object"}  # fmt: skip
    types = kind if isinstance(kind, list) else [kind]
    if names.get(type(value)) in types or (type(value) is int and "number" in types):
        return
    raise _error(f"{shown(value)} is not of the type {shown(kind)}")


def _counts(schema: dict[str, Any], least: str, most: str) -> tuple[int, int | None]:
    low, high = schema.get(least, 0), schema.get(most)
    for value in (low, 0 if high is None else high):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
            raise _error(f"{least} and {most} must be from 0 to {MAX_COUNT}; got {shown(value)}")
    if high is not None and low > high:
        raise _error(f"{least} is larger than {most}")
    return low, high


def _range(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if type(low) is not int or type(high) is not int or not 0 <= high - low < MAX_COUNT:
        raise _error(f"minimum and maximum must both be integers, at most {MAX_COUNT} apart")
    return f"({' | '.join(_literal(value) for value in range(low, high + 1))})"


def _refuse_others(limits: set[str], supported: set[str]) -> None:
    others = sorted(str(keyword) for keyword in limits - supported)
    if others:
        message = f"this engine cannot enforce {shown(others[0])} here for this model"
        raise _error(f"{message}; another may")


def _list(value: object, keyword: str) -> list[Any]:
    if not isinstance(value, list):
        raise _error(f"{keyword} must be a list")
    return value


def _nonempty_list(value: object) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise _error("anyOf and enum must be non-empty lists")
    return value


def _error(reason: str) -> InvalidInput:
    return InvalidInput(f"response_format: this schema cannot be enforced: {reason}",
                        field="response_format")  # fmt: skip
