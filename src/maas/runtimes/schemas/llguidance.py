"""JSON schemas as grammars for engines with LLGuidance.

If llama.cpp cannot follow a grammar, it generates without one and only logs that. So grammars are
compiled here first, with the same library, and refused if that fails. The versions of the library
differ, so `AnswerFollower` checks the answer as well.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import astuple
from functools import cache
from typing import Any

import llguidance

from maas.domain.errors import InvalidInput
from maas.runtimes.schemas.keywords import Interval, each_schema, types_of
from maas.runtimes.schemas.lark import lark_schema

_HEAD = "%llguidance {}\n"
_SETTINGS = {"whitespace_flexible": False}
"""By default a model may generate blanks without end, which every schema allows."""

_EXACT = 2**53 - 1
"""Largest integer that every reader of JSON keeps exactly (RFC 7493, section 2.2)."""
_FINEST = 1e-9
"""Resolution of fractions between two bounds."""
_NARROWEST = 1e-6
"""Bounds that are closer than this may need more digits."""
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_SINGLE = ("items", "additionalProperties")
_LISTS = ("anyOf", "prefixItems")
"""Keywords with schemas inside, where a narrower schema allows nothing more."""

_HINTS = ("password", "binary")
"""Formats that do not affect validity, and that the library does not know."""
_UNSATISFIABLE = "no text satisfies it, for example because a $ref refers only to itself"


def json_grammar(
    response_format: dict[str, Any], rewrite: Callable[[Any], Any] = lambda schema: schema
) -> str:
    """The grammar of `Generation.response_format`. Raises InvalidInput if it cannot be enforced.

    `rewrite` returns a schema that the engine enforces, or raises InvalidInput.
    """
    if response_format.get("type") == "json_object":
        schema: Any = {"type": "object"}
    else:
        schema = response_format.get("schema", {})
    if not isinstance(schema, dict):
        raise InvalidInput("response_format: the schema must be an object", field="schema")
    try:
        return _grammar(schema, rewrite)
    except RecursionError:
        raise InvalidInput("response_format: the schema has too many levels",
                           field="response_format") from None  # fmt: skip


def _grammar(schema: dict[str, Any], rewrite: Callable[[Any], Any]) -> str:
    schema = each_schema(schema, _checked)

    def leaf(part: dict[str, Any]) -> str:
        return "%json " + json.dumps(_bounded(rewrite(part)) | {"x-guidance": _SETTINGS})

    rules = lark_schema(schema, leaf)
    if rules is not None and not _compile_error(_HEAD + rules):
        return _HEAD + rules
    grammar = f"{_HEAD}start: {leaf(schema)}"
    error = _compile_error(grammar)
    if error:
        reason = error.partition("JSON schema: ")[2] or error
        if reason.startswith("panic"):
            reason = "it is too large"
        reason = " ".join(reason.partition("\n   1 |")[0].split())[:300]
        raise InvalidInput(f"response_format: this schema cannot be enforced: {reason}",
                           field="response_format")  # fmt: skip
    return grammar


def _compile_error(grammar: str) -> str:
    """The reason why LLGuidance cannot use a grammar; empty if it can."""
    return llguidance.LLMatcher.validate_grammar(grammar) or _first_step_error(grammar)


def _checked(schema: dict[str, Any]) -> dict[str, Any]:
    """One schema without its parts, with bounds that the library treats as JSON Schema does."""
    _check_count(schema)
    if schema.get("format") in _HINTS:
        schema = {key: value for key, value in schema.items() if key != "format"}
    if "enum" in schema or "const" in schema:
        return schema
    try:
        return _closed(schema, Interval.of(schema))
    except ValueError:
        return schema  # the library reports the error


def _check_count(schema: dict[str, Any]) -> None:
    """Raises InvalidInput for a `minProperties` that the grammar cannot enforce: a property without
    a schema may be generated twice, and then counts once."""
    if types_of(schema) and "object" not in types_of(schema):
        return
    least, required = schema.get("minProperties"), schema.get("required")
    certain = 0
    if isinstance(required, list):
        certain = len({name for name in required if isinstance(name, str)})
    is_free = schema.get("additionalProperties") is not False or "patternProperties" in schema
    if isinstance(least, int) and least > max(1, certain) and is_free:
        raise InvalidInput(
            "response_format: this schema cannot be enforced: minProperties is more than the number"
            " of required properties, and other names are allowed",
            field="response_format",
        )


def _bounded(schema: Any) -> Any:
    """`schema` with bounds for numbers that have none, since a model may generate digits without
    end. Fractions without bounds may have exponents, and not every engine supports multiples of
    negative numbers: they remain unchanged, for `lark_schema`."""
    if not isinstance(schema, dict):
        return schema
    bounded = dict(schema)
    for name in _MAPS:
        if isinstance(bounded.get(name), dict):
            bounded[name] = {key: _bounded(value) for key, value in bounded[name].items()}
    bounded |= {name: _bounded(bounded[name]) for name in _SINGLE if name in bounded}
    for name in _LISTS:
        if isinstance(bounded.get(name), list):
            bounded[name] = [_bounded(value) for value in bounded[name]]
    if "enum" in bounded or "const" in bounded:
        return bounded
    try:
        interval = Interval.of(bounded)
    except ValueError:
        return bounded  # the library reports the error
    return bounded | _added_bounds(bounded, interval)


def _added_bounds(schema: dict[str, Any], interval: Interval) -> dict[str, float]:
    """Keywords that limit the digits of its numbers."""
    types = types_of(schema)
    added: dict[str, float] = {}
    if "integer" in types and "number" not in types:
        if interval.low == -math.inf and interval.high > -_EXACT:
            added["minimum"] = -_EXACT
        elif interval.low == -math.inf:
            added["minimum"] = 10 * interval.high
    elif "number" not in types or interval.low < 0:
        return added
    if interval.high == math.inf:
        added["maximum"] = _EXACT if interval.low < _EXACT else 10 * interval.low
    if "number" in types and interval.high - interval.low > _NARROWEST:
        added["multipleOf"] = schema.get("multipleOf", _FINEST)
    return added


def _closed(schema: dict[str, Any], interval: Interval) -> dict[str, Any]:
    """`schema` with bounds that both versions of the library enforce: closed whole bounds for
    integers, and no excluded whole number less than 1 from the other bound, since the library would
    accept it, such as 0 in the numbers between 0 and 0.5."""
    rest = {k: v for k, v in schema.items() if k not in ("exclusiveMinimum", "exclusiveMaximum")}
    if "integer" in types_of(schema) and "number" not in types_of(schema):
        return rest | interval.whole.keywords
    width = interval.high - interval.low
    if not 0 < width < 1:
        return schema
    least = min(_FINEST, width / 1000)
    low, high, is_open_below, is_open_above = astuple(interval)
    if is_open_below and low % 1 == 0:
        low, is_open_below = low + least, False
    if is_open_above and high % 1 == 0:
        high, is_open_above = high - least, False
    return rest | Interval(low, high, is_open_below, is_open_above).keywords


def _first_step_error(grammar: str) -> str:
    """The error of the first step: some patterns compile, but are too large to use."""
    matcher = llguidance.LLMatcher(_bytes(), grammar, log_level=0)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if not matcher.is_error():
        return ""
    # After the reason follows the state of the library, which is not for clients.
    reason = str(matcher.get_error()).partition("<state>")[0].strip()
    return _UNSATISFIABLE if reason.startswith("NoExtension") else reason


class AnswerFollower:
    """Checks an answer against a grammar while an engine generates it."""

    def __init__(self, grammar: str) -> None:
        """`grammar`: a result of `json_grammar`."""
        self._matcher = llguidance.LLMatcher(_bytes(), grammar, log_level=0)

    def take(self, text: str) -> bool:
        """Whether the grammar allows `text` next."""
        return bool(self._matcher.consume_tokens(list(text.encode())))

    @property
    def is_complete(self) -> bool:
        """Whether the answer may end here."""
        return bool(self._matcher.is_accepting())


@cache
def _bytes() -> llguidance.LLTokenizer:
    """A tokenizer whose tokens are the 256 bytes."""
    return llguidance.LLTokenizer("byte")
