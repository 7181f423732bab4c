"""JSON schemas as grammars in EBNF, for engines that hold a grammar and not every schema: OpenVINO,
and llama.cpp with models whose tokens LLGuidance does not see as they are (`llama_schema.py`).

What OpenVINO GenAI makes of a schema itself leaves out keywords that it does not know, lets a model
write blanks for ever, and ends everything that the engine writes if it cannot be compiled. Here
whatever is not surely held is refused. What a grammar allows is always valid, and may be less than
all that is: no properties are added to those named, and keys come in the order of the schema.

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
_ALONE = ("$ref", "anyOf", "const", "enum")
"""Keywords beside which nothing else limits what is valid."""
MAX_COUNT = 1000
"""Largest length that a schema may name; a grammar grows with it."""
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
    """The grammar, with the rule `root`, of what `Generation.response_format` asks for; raises
    InvalidInput if it would not be held."""
    if response_format.get("type") == "json_object":
        return f"root ::= object\n{_BASE}"
    return _Grammar(response_format.get("schema", {})).text()


class _Grammar:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._nodes = 0
        self._rules: list[str] = []
        self._named: dict[str, str] = {}
        """Rules of definitions, by reference."""
        self._open: set[str] = set()
        """References being followed since the last character was written."""

    def text(self) -> str:
        root = self._node(self._root, 0)
        return "\n".join([f"root ::= {root}", *self._rules]) + _BASE

    def _rule(self, body: str) -> str:
        name = f"rule{len(self._rules)}"
        self._rules.append(f"{name} ::= {body}")
        return name

    def _node(self, schema: Any, depth: int) -> str:
        """An expression for what `schema` allows."""
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise _wrong(f"it has more than {MAX_DEPTH} levels or {MAX_NODES} parts")
        if schema is True:
            return "value"
        if not isinstance(schema, dict):
            raise _wrong(f"a schema that can be held is an object, not {shown(schema)}")
        limits = schema.keys() - ANNOTATIONS
        for keyword in _ALONE:
            if keyword in limits:
                _refuse_others(limits, {keyword, "type"} if keyword[0] in "ce" else {keyword})
                return self._alone(keyword, schema, depth)
        kinds = schema.get("type", [])
        kinds = [kinds] if isinstance(kinds, str) else _listed(kinds, "type")
        unknown = [kind for kind in kinds if not isinstance(kind, str) or kind not in _OF_TYPES]
        if unknown:
            raise _wrong(f"there is no type {shown(unknown[0])}")
        _refuse_others(limits, {"type"}.union(*(_OF_TYPES[kind] for kind in kinds)))
        parts = [self._typed(kind, schema, depth) for kind in kinds]
        return f"({' | '.join(parts)})" if parts else "value"

    def _alone(self, keyword: str, schema: dict[str, Any], depth: int) -> str:
        given = schema[keyword]
        if keyword == "$ref":
            return self._reference(given, depth)
        if keyword == "anyOf":
            return f"({' | '.join(self._node(part, depth + 1) for part in _filled(given))})"
        values = [given] if keyword == "const" else _filled(given)
        kind = schema.get("type")
        return f"({' | '.join(_literal(v) for v in values if _is_of(v, kind))})"

    def _reference(self, reference: object, depth: int) -> str:
        found = REFERENCE.fullmatch(reference) if isinstance(reference, str) else None
        definitions = self._root.get(found[1]) if found else None
        if not found or not isinstance(definitions, dict) or found[2] not in definitions:
            raise _wrong(f"there is nothing at {shown(reference)}")
        key = found[0]
        if key in self._open:
            raise _wrong(f"{key} is itself and nothing more")
        if key not in self._named:
            name = self._named[key] = f"definition{len(self._named)}"
            self._open.add(key)
            body = self._node(definitions[found[2]], depth + 1)
            self._open.discard(key)
            self._rules.append(f"{name} ::= {body}")
        return self._named[key]

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
        # A rule, for it is named twice, and llama.cpp writes repetitions out.
        item = self._rule(self._inside(schema.get("items", True), depth))
        if high == 0:
            return '"[]"'
        items = repeated(item, '"," blank', low, high)
        return f'"[" {items} "]"'

    def _object(self, schema: dict[str, Any], depth: int) -> str:
        properties = schema.get("properties", {})
        required = _listed(schema.get("required", []), "required")
        if not isinstance(properties, dict) or any(not isinstance(n, str) for n in required):
            raise _wrong("properties must be an object, and required a list of names")
        names = [*properties, *(name for name in required if name not in properties)]
        others = schema.get("additionalProperties", True)
        if not names:
            if others is False:
                return '"{}"'
            pair = f'string ":" blank {self._inside(others, depth)}'
            return f'"{{" ({pair} ("," blank {pair})*)? "}}"'
        missing = [name for name in required if name not in properties]
        if missing and others is not True:
            raise _wrong(f"required names {shown(missing[0])}, which is not among the properties")
        # From the last to the first: what may follow a property, and what may begin the object.
        follows, begins = '""', '""'
        for name in reversed(names):
            value = self._inside(properties.get(name, True), depth)
            pair = f'{_literal(name)} ":" blank {value} {follows}'
            if name in required:
                begins, follows = self._rule(pair), self._rule(f'"," blank {pair}')
            else:
                begins = self._rule(f"{pair} | {begins}")
                follows = self._rule(f'"," blank {pair} | {follows}')
        return f'"{{" {begins} "}}"'

    def _inside(self, schema: Any, depth: int) -> str:
        """As `_node`, after a character of its own: from here on a reference may come again."""
        kept, self._open = self._open, set()
        try:
            return self._node(schema, depth + 1)
        finally:
            self._open = kept


def _literal(value: object) -> str:
    """A rule's text that is exactly the JSON text of `value`."""
    text = json.dumps(value, allow_nan=False)
    if len(text) > 10 * MAX_COUNT:
        raise _wrong("a value is too long")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _is_of(value: object, kind: object) -> bool:
    if kind is None:
        return True
    names = {str: "string", bool: "boolean", int: "integer", float: "number",
             type(None): "null", list: "array", dict: "object"}  # fmt: skip
    kinds = kind if isinstance(kind, list) else [kind]
    if names.get(type(value)) in kinds or (type(value) is int and "number" in kinds):
        return True
    raise _wrong(f"{shown(value)} is not of the type {shown(kind)}")


def _counts(schema: dict[str, Any], least: str, most: str) -> tuple[int, int | None]:
    low, high = schema.get(least, 0), schema.get(most)
    for value in (low, 0 if high is None else high):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
            raise _wrong(f"{least} and {most} must be from 0 to {MAX_COUNT}; got {shown(value)}")
    if high is not None and low > high:
        raise _wrong(f"{least} is larger than {most}")
    return low, high


def _range(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if type(low) is not int or type(high) is not int or not 0 <= high - low < MAX_COUNT:
        raise _wrong(f"minimum and maximum must both be there, at most {MAX_COUNT} apart")
    return f"({' | '.join(_literal(value) for value in range(low, high + 1))})"


def _refuse_others(limits: set[str], known: set[str]) -> None:
    others = sorted(str(keyword) for keyword in limits - known)
    if others:
        raise _wrong(f"this engine cannot hold {shown(others[0])} here for this model; another may")


def _listed(value: object, keyword: str) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(f"{keyword} must be a list")
    return value


def _filled(value: object) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise _wrong("anyOf and enum must be lists that are not empty")
    return value


def _wrong(why: str) -> InvalidInput:
    return InvalidInput(f"response_format: this schema cannot be enforced: {why}",
                        field="response_format")  # fmt: skip
