"""JSON schemas in words that llama.cpp holds.

llama.cpp is built with LLGuidance 1.0.1, which is older than the one that `json_grammar` compiles
with. What only the newer one holds is said in other words here, or refused. What is missed here is
found while the answer is written: see `Followed` there.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.names import shown
from maas.runtimes.json_schema import Interval, each_schema, kinds

_ESCAPED = re.compile(
    r'["\x00-\x1f]|\\(?:[\\nrtfv]|x(?:22|5c|[01].)|u00(?:22|5c|[01].))', re.IGNORECASE
)
"""In a pattern: what stands for a character that JSON writes with a backslash."""

_MARK = r"[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2}"
_SEGMENT = f"(?:[:@]|{_MARK})"
_HOST = rf"(?:(?:{_MARK})*|\[(?:[0-9A-Fa-f]{{1,4}}:){{7}}[0-9A-Fa-f]{{1,4}}\])"
_PATHS = f"(?:/{_SEGMENT}*)*"
_URI = (
    "^[A-Za-z][A-Za-z0-9+.-]*:"
    rf"(?://(?:(?::|{_MARK})*@)?{_HOST}(?::[0-9]*)?{_PATHS}|/?(?:{_SEGMENT}+{_PATHS})?)"
    rf"(?:\?(?:[/?]|{_SEGMENT})*)?(?:#(?:[/?]|{_SEGMENT})*)?$"
)
"""RFC 3986, section 3; of addresses in brackets only IPv6 in full."""


def held_schema(schema: Any, field: str) -> Any:
    """`schema` so that llama.cpp holds it; `field` is where the caller gave it. Raises
    InvalidInput."""

    def held(part: dict[str, Any]) -> dict[str, Any]:
        _check_pattern(part, field)
        _check_multiples(part, field)
        return _without_uri(part)

    return each_schema(schema, held)


def _check_pattern(schema: dict[str, Any], field: str) -> None:
    """The engine ends a text behind the first character of it that JSON escapes, whatever the
    pattern wants to follow."""
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and _ESCAPED.search(pattern):
        raise InvalidInput(
            f"{field}: the engine llama_cpp does not hold pattern {shown(pattern)}, which names a"
            " character that JSON escapes; transformers does",
            field=field,
        )


def _check_multiples(schema: dict[str, Any], field: str) -> None:
    """To the engine no number below 0 is a multiple of anything. It would never write one, and
    would write freely where nothing else is allowed."""
    if not isinstance(schema.get("multipleOf"), int | float):
        return
    named = kinds(schema)
    if named and not {"number", "integer"} & set(named):
        return
    with contextlib.suppress(ValueError):
        if Interval.of(schema).low >= 0:
            return
    raise InvalidInput(
        f"{field}: the engine llama_cpp holds multipleOf here only beside a minimum of 0 or more;"
        " transformers holds it for any number",
        field=field,
    )


def _without_uri(schema: dict[str, Any]) -> dict[str, Any]:
    """The engine knows no format `uri`, which pydantic's `HttpUrl` asks for."""
    if schema.get("format") != "uri":
        return schema
    made = {key: value for key, value in schema.items() if key != "format"}
    if "pattern" not in made:
        return made | {"pattern": _URI}
    others = made.get("allOf")
    return made | {"allOf": [*(others if isinstance(others, list) else []), {"pattern": _URI}]}
