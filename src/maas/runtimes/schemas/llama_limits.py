"""JSON schemas in words that llama.cpp holds.

llama.cpp is built with LLGuidance 1.0.1, which is older than the one that `json_grammar` compiles
with. What only the newer one holds is said in other words here, or refused. What is missed here is
found while the answer is written: see `Followed` there.

For models of which it sees the tokens without their blanks, llama.cpp's own grammars are used,
which hold fewer schemas (`schema_grammar.py`).
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.names import shown
from maas.runtimes.formats.gguf import GgufSummary
from maas.runtimes.formats.gguf_tokens import gguf_tokens
from maas.runtimes.schemas.keywords import Interval, each_schema, kinds

_ESCAPED = re.compile(
    r'["\x00-\x1f]|\\(?:[\\nrtfv]|x(?:22|5c|[01].)|u00(?:22|5c|[01].))', re.IGNORECASE
)
"""In a pattern: what stands for a character that JSON writes with a backslash."""

_CLEANED = re.compile("(?:Ġ|▁| )(?:[?!.,]|'(?:Ġ|▁| |s|m|re|ve))")
"""In the text of a token, with the ways in which files write blanks: what llama.cpp takes a blank
out of where it takes one token for a whole text."""
_PART = re.compile("^<0x[89A-F][0-9A-F]>$")
_BYTE_PART = re.compile("[\u00a1-\u00ff\u0122-\u0143]")
"""Tokens that are parts of a character, or may be where tokens are bytes: llama.cpp's own grammars
do not look whether the others follow, and count what is none as one."""
_UNCLEANED = {"smollm", "qwen2", "deepseek-llm", "deepseek-coder", "deepseek-v3", "tekken"}
"""Ways to cut texts for which it does not."""

MAX_ITEMS = 40_000
"""Of all arrays of a schema."""
MAX_OPTIONAL = 300
"""Properties of one object that may be left out: of 600 the engine's LLGuidance loses its way."""

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


@dataclass(frozen=True)
class TokenTexts:
    """How llama.cpp shows a model's tokens to LLGuidance: each as a text of its own, from which it
    takes blanks that the token does add to a longer text (common/llguidance.cpp, and
    `detokenize` in src/llama-vocab.cpp)."""

    lacks_blanks: bool = False
    """Whether that is so for all that begin with one. LLGuidance is of no use then."""
    misread: tuple[int, ...] = ()
    """Numbers of the few that grammars take for something else, which no answer with a schema may
    have."""

    @classmethod
    def of(cls, path: Path, summary: GgufSummary) -> TokenTexts:
        """Of a GGUF file whose header was found in order."""
        is_pieces = summary.tokenizer == "llama"
        lacks_blanks = is_pieces if summary.adds_space is None else summary.adds_space
        if lacks_blanks:
            misread = _PART if is_pieces else _BYTE_PART
        elif is_pieces or summary.pre_tokenizer in _UNCLEANED:
            return cls()
        else:
            misread = _CLEANED
        tokens = enumerate(gguf_tokens(path, summary))
        found = [at for at, text in tokens if misread.search(text.decode(errors="replace"))]
        return cls(lacks_blanks, tuple(found))


def check_counts(schema: Any, field: str) -> None:
    """The engine's LLGuidance writes repetitions out, and has no room for very many; nor for many
    names that may come next. Raises InvalidInput."""
    count = 0

    def add(part: dict[str, Any]) -> dict[str, Any]:
        nonlocal count
        found = [part.get(keyword) for keyword in ("minItems", "maxItems")]
        count += max((n for n in found if isinstance(n, int) and n > 0), default=0)
        names, required = part.get("properties"), part.get("required")
        must = [n for n in required if isinstance(n, str)] if isinstance(required, list) else []
        optional = names.keys() - must if isinstance(names, dict) else ()
        if len(optional) > MAX_OPTIONAL:
            raise InvalidInput(
                f"{field}: the engine llama_cpp holds objects with at most {MAX_OPTIONAL}"
                f" properties that may be left out; one has {len(optional)}",
                field=field,
            )
        return part

    each_schema(schema, add)
    if count > MAX_ITEMS:
        raise InvalidInput(
            f"{field}: the engine llama_cpp holds arrays of at most {MAX_ITEMS} items together;"
            f" these may have {count}",
            field=field,
        )


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
    if named and "number" not in named and "integer" not in named:
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
