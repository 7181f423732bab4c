"""JSON schemas as grammars that an engine with LLGuidance follows token by token.

The engine itself writes freely, and says so in its log only, if it cannot follow a grammar. So
each is compiled here first, by the same library; what it cannot hold is refused, never ignored.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import llguidance

from maas.domain.errors import InvalidInput

_MANNERS = {"whitespace_flexible": False}
"""Without it a model may write blanks for ever, which every schema allows."""

_EXACT = 2**53 - 1
"""Largest integer that every reader of JSON keeps exactly (RFC 7493, section 2.2)."""
_BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "enum", "const"}
_BY_NAME = ("properties", "$defs", "definitions")
_ONE = ("items", "additionalProperties")
_SEVERAL = ("anyOf", "prefixItems")
"""Keywords that hold schemas, and where a narrower one allows nothing more."""

_NOTHING = "no text satisfies it, for example because a $ref is itself and nothing more"


def json_grammar(response_format: dict[str, Any]) -> str:
    """The grammar of what `Generation.response_format` asks for; raises InvalidInput if it cannot
    be enforced."""
    if response_format.get("type") == "json_object":
        schema: Any = {"type": "object"}
    else:
        schema = response_format.get("schema", {})
    if not isinstance(schema, dict):
        raise InvalidInput("response_format: the schema must be an object", field="schema")
    told = json.dumps(_bounded(schema) | {"x-guidance": _MANNERS})
    grammar = f"%llguidance {{}}\nstart: %json {told}"
    wrong = llguidance.LLMatcher.validate_grammar(grammar) or _start(grammar)
    if wrong:
        reason = wrong.partition("JSON schema: ")[2] or wrong
        reason = " ".join(reason.partition("\n   1 |")[0].split())[:300]
        raise InvalidInput(f"response_format: this schema cannot be enforced: {reason}",
                           field="response_format")  # fmt: skip
    return grammar


def _bounded(schema: Any) -> Any:
    """`schema` with ends for integers that have none: a model may write digits for ever, which the
    schema allows."""
    if not isinstance(schema, dict):
        return schema
    made = dict(schema)
    for name in _BY_NAME:
        if isinstance(made.get(name), dict):
            made[name] = {key: _bounded(value) for key, value in made[name].items()}
    made |= {name: _bounded(made[name]) for name in _ONE if name in made}
    for name in _SEVERAL:
        if isinstance(made.get(name), list):
            made[name] = [_bounded(value) for value in made[name]]
    kinds = made.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "integer" in kinds and "number" not in kinds and not _BOUNDS & made.keys():
        made |= {"minimum": -_EXACT, "maximum": _EXACT}
    return made


def _start(grammar: str) -> str:
    """What is wrong with the first step: some patterns compile, and are too large to follow."""
    matcher = llguidance.LLMatcher(_bytes(), grammar, log_level=0)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if not matcher.is_error():
        return ""
    # Behind the reason stands the state of the library, which is no business of a caller's.
    reason = str(matcher.get_error()).partition("<state>")[0].strip()
    return _NOTHING if reason.startswith("NoExtension") else reason


@cache
def _bytes() -> llguidance.LLTokenizer:
    return llguidance.LLTokenizer("byte")
