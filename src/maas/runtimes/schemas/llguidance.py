"""JSON schemas as grammars that an engine with LLGuidance follows token by token.

llama.cpp writes freely, and says so in its log only, if it cannot follow a grammar. So each is
compiled here first, by the same library, and what it cannot hold is refused, never ignored. That
library is not of the same version, so `AnswerFollower` reads along.
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
from maas.runtimes.schemas.keywords import Interval, each_schema, kinds
from maas.runtimes.schemas.lark import lark_schema

_HEAD = "%llguidance {}\n"
_MANNERS = {"whitespace_flexible": False}
"""Without it a model may write blanks for ever, which every schema allows."""

_EXACT = 2**53 - 1
"""Largest integer that every reader of JSON keeps exactly (RFC 7493, section 2.2)."""
_FINEST = 1e-9
"""Of fractions between two bounds."""
_NARROWEST = 1e-6
"""Bounds that are nearer to each other than this may need more digits."""
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
_ONE = ("items", "additionalProperties")
_SEVERAL = ("anyOf", "prefixItems")
"""Keywords that hold schemas, and where a narrower one allows nothing more."""

_HINTS = ("password", "binary")
"""Formats that say how a text is shown or sent, and that the library does not know."""
_NOTHING = "no text satisfies it, for example because a $ref is itself and nothing more"


def json_grammar(
    response_format: dict[str, Any], held: Callable[[Any], Any] = lambda schema: schema
) -> str:
    """The grammar of what `Generation.response_format` asks for; raises InvalidInput if it cannot
    be enforced.

    `held` makes of a schema one that the engine holds, or raises.
    """
    if response_format.get("type") == "json_object":
        schema: Any = {"type": "object"}
    else:
        schema = response_format.get("schema", {})
    if not isinstance(schema, dict):
        raise InvalidInput("response_format: the schema must be an object", field="schema")
    try:
        return _grammar(schema, held)
    except RecursionError:
        raise InvalidInput("response_format: the schema has too many levels",
                           field="response_format") from None  # fmt: skip


def _grammar(schema: dict[str, Any], held: Callable[[Any], Any]) -> str:
    schema = each_schema(schema, _checked)

    def leaf(part: dict[str, Any]) -> str:
        return "%json " + json.dumps(_bounded(held(part)) | {"x-guidance": _MANNERS})

    rules = lark_schema(schema, leaf)
    if rules is not None and not _wrong(_HEAD + rules):
        return _HEAD + rules
    grammar = f"{_HEAD}start: {leaf(schema)}"
    wrong = _wrong(grammar)
    if wrong:
        reason = wrong.partition("JSON schema: ")[2] or wrong
        if reason.startswith("panic"):
            reason = "it is too large"
        reason = " ".join(reason.partition("\n   1 |")[0].split())[:300]
        raise InvalidInput(f"response_format: this schema cannot be enforced: {reason}",
                           field="response_format")  # fmt: skip
    return grammar


def _wrong(grammar: str) -> str:
    return llguidance.LLMatcher.validate_grammar(grammar) or _start(grammar)


def _checked(schema: dict[str, Any]) -> dict[str, Any]:
    """One schema, not what it holds, in words that mean to the library what they say."""
    _check_count(schema)
    if schema.get("format") in _HINTS:
        schema = {key: value for key, value in schema.items() if key != "format"}
    if "enum" in schema or "const" in schema:
        return schema
    try:
        return _closed(schema, Interval.of(schema))
    except ValueError:
        return schema  # and the library will say what is wrong


def _check_count(schema: dict[str, Any]) -> None:
    """Names that the schema does not know may be written twice, and then count as one."""
    if kinds(schema) and "object" not in kinds(schema):
        return
    least, required = schema.get("minProperties"), schema.get("required")
    certain = len({n for n in required if isinstance(n, str)}) if isinstance(required, list) else 0
    is_free = schema.get("additionalProperties") is not False or "patternProperties" in schema
    if isinstance(least, int) and least > max(1, certain) and is_free:
        raise InvalidInput(
            "response_format: this schema cannot be enforced: minProperties of more than what is"
            " required, beside names that are not told",
            field="response_format",
        )


def _bounded(schema: Any) -> Any:
    """`schema` with ends for numbers that have none: a model may write digits for ever, which the
    schema allows. Fractions without bounds may have exponents, and of those below 0 not every
    engine knows multiples; they stay as they are, for `lark_schema`."""
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
    if "enum" in made or "const" in made:
        return made
    try:
        interval = Interval.of(made)
    except ValueError:
        return made  # and the library will say what is wrong
    return made | _ends(made, interval)


def _ends(schema: dict[str, Any], interval: Interval) -> dict[str, float]:
    """Keywords that end its numbers."""
    found = kinds(schema)
    added: dict[str, float] = {}
    if "integer" in found and "number" not in found:
        if interval.low == -math.inf and interval.high > -_EXACT:
            added["minimum"] = -_EXACT
        elif interval.low == -math.inf:
            added["minimum"] = 10 * interval.high
    elif "number" not in found or interval.low < 0:
        return added
    if interval.high == math.inf:
        added["maximum"] = _EXACT if interval.low < _EXACT else 10 * interval.low
    if "number" in found and interval.high - interval.low > _NARROWEST:
        added["multipleOf"] = schema.get("multipleOf", _FINEST)
    return added


def _closed(schema: dict[str, Any], interval: Interval) -> dict[str, Any]:
    """`schema` with bounds that both versions of the library hold: integers have whole ones that
    are in, and a whole number that is out is not less than 1 away from the other bound, for then
    it would pass: the 0 of those larger than 0 and smaller than 0.5."""
    rest = {k: v for k, v in schema.items() if k not in ("exclusiveMinimum", "exclusiveMaximum")}
    if "integer" in kinds(schema) and "number" not in kinds(schema):
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


class AnswerFollower:
    """An answer that another library writes by a grammar, read along while it comes."""

    def __init__(self, grammar: str) -> None:
        """`grammar`: one of `json_grammar`."""
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
    """One whose tokens are the bytes, each with its own number."""
    return llguidance.LLTokenizer("byte")
