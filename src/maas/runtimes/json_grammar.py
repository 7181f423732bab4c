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
    grammar = f"%llguidance {{}}\nstart: %json {json.dumps(schema | {'x-guidance': _MANNERS})}"
    wrong = llguidance.LLMatcher.validate_grammar(grammar) or _start(grammar)
    if wrong:
        reason = wrong.partition("JSON schema: ")[2] or wrong
        reason = " ".join(reason.partition("\n   1 |")[0].split())[:300]
        raise InvalidInput(f"response_format: this schema cannot be enforced: {reason}",
                           field="response_format")  # fmt: skip
    return grammar


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
