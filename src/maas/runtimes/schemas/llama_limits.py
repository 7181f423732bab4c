"""Rewrites JSON schemas so that llama.cpp enforces them.

llama.cpp is built with LLGuidance 1.0.1, which is older than the version that `json_grammar`
compiles with. Keywords that only the newer version enforces are rewritten here, or refused. What
this misses is detected while the answer is generated (`llguidance.py:AnswerFollower`).

For models whose tokens LLGuidance gets without their blanks, llama.cpp's own grammars are used,
which enforce fewer schemas (`ebnf.py`).
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
from maas.runtimes.schemas.keywords import Interval, each_schema, types_of

_ESCAPED = re.compile(
    r'["\x00-\x1f]|\\(?:[\\nrtfv]|x(?:22|5c|[01].)|u00(?:22|5c|[01].))', re.IGNORECASE
)
"""Parts of a pattern that match a character that JSON escapes."""

_CLEANED = re.compile("(?:Ġ|▁| )(?:[?!.,]|'(?:Ġ|▁| |s|m|re|ve))")
"""Texts of tokens, with the forms of blanks in files, from which llama.cpp removes a blank when it
decodes the token alone."""
_PART = re.compile("^<0x[89A-F][0-9A-F]>$")
_BYTE_PART = re.compile("[\u00a1-\u00ff\u0122-\u0143]")
"""Tokens that are, or may be, parts of a character: llama.cpp's own grammars do not check that the
other parts follow, and count an incomplete character as one."""
_UNCLEANED = {"smollm", "qwen2", "deepseek-llm", "deepseek-coder", "deepseek-v3", "tekken"}
"""Pre-tokenizers for which it does not."""

MAX_ITEMS = 40_000
"""Items of all arrays of a schema."""
MAX_OPTIONAL = 300
"""Optional properties of an object: with 600, the engine's LLGuidance fails."""

_MARK = r"[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2}"
_SEGMENT = f"(?:[:@]|{_MARK})"
_HOST = rf"(?:(?:{_MARK})*|\[(?:[0-9A-Fa-f]{{1,4}}:){{7}}[0-9A-Fa-f]{{1,4}}\])"
_PATHS = f"(?:/{_SEGMENT}*)*"
_URI = (
    "^[A-Za-z][A-Za-z0-9+.-]*:"
    rf"(?://(?:(?::|{_MARK})*@)?{_HOST}(?::[0-9]*)?{_PATHS}|/?(?:{_SEGMENT}+{_PATHS})?)"
    rf"(?:\?(?:[/?]|{_SEGMENT})*)?(?:#(?:[/?]|{_SEGMENT})*)?$"
)
"""RFC 3986, section 3; addresses in brackets are unabbreviated IPv6 only."""


@dataclass(frozen=True)
class TokenTexts:
    """The texts of tokens that llama.cpp passes to LLGuidance: each token decoded alone, without
    blanks that it does add to a longer text (common/llguidance.cpp, and `detokenize` in
    src/llama-vocab.cpp)."""

    lacks_blanks: bool = False
    """Whether all tokens lack their leading blank. LLGuidance is unusable then."""
    misread: tuple[int, ...] = ()
    """Ids of the few tokens with another text, which are forbidden in answers with a schema."""

    @classmethod
    def of(cls, path: Path, summary: GgufSummary) -> TokenTexts:
        """The texts of a GGUF file whose header `check_gguf` has accepted."""
        is_pieces = summary.tokenizer == "llama"
        lacks_blanks = is_pieces if summary.adds_space is None else summary.adds_space
        if lacks_blanks:
            misread = _PART if is_pieces else _BYTE_PART
        elif is_pieces or summary.pre_tokenizer in _UNCLEANED:
            return cls()
        else:
            misread = _CLEANED
        texts = [token.decode(errors="replace") for token in gguf_tokens(path, summary)]
        return cls(lacks_blanks, tuple(n for n, text in enumerate(texts) if misread.search(text)))


def check_counts(schema: Any, field: str) -> None:
    """Raises InvalidInput for more array items or optional properties than the engine's LLGuidance
    can expand."""
    count = 0

    def add(part: dict[str, Any]) -> dict[str, Any]:
        nonlocal count
        limits = [part.get(keyword) for keyword in ("minItems", "maxItems")]
        count += max((n for n in limits if isinstance(n, int) and n > 0), default=0)
        optional = _optional_properties(part)
        if optional > MAX_OPTIONAL:
            raise InvalidInput(
                f"{field}: the engine llama_cpp enforces objects with at most {MAX_OPTIONAL}"
                f" optional properties; one has {optional}",
                field=field,
            )
        return part

    each_schema(schema, add)
    if count > MAX_ITEMS:
        raise InvalidInput(
            f"{field}: the engine llama_cpp enforces arrays of at most {MAX_ITEMS} items in total;"
            f" these may have {count}",
            field=field,
        )


def _optional_properties(schema: dict[str, Any]) -> int:
    """Number of properties that are not required."""
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict):
        return 0
    names = required if isinstance(required, list) else []
    return len(properties.keys() - [name for name in names if isinstance(name, str)])


def enforceable(schema: Any, field: str) -> Any:
    """`schema` rewritten for llama.cpp. Raises InvalidInput, for the request's `field`, if it
    cannot be enforced."""

    def rewritten(part: dict[str, Any]) -> dict[str, Any]:
        _check_pattern(part, field)
        _check_multiples(part, field)
        return _without_uri(part)

    return each_schema(schema, rewritten)


def _check_pattern(schema: dict[str, Any], field: str) -> None:
    """The engine ends a text after the first character that JSON escapes, whatever follows it in
    the pattern."""
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and _ESCAPED.search(pattern):
        raise InvalidInput(
            f"{field}: the engine llama_cpp does not enforce pattern {shown(pattern)}, which"
            " matches a character that JSON escapes; transformers does",
            field=field,
        )


def _check_multiples(schema: dict[str, Any], field: str) -> None:
    """For the engine no negative number is a multiple of anything. It would never generate one, and
    would drop the grammar where nothing else is allowed."""
    if not isinstance(schema.get("multipleOf"), int | float):
        return
    types = types_of(schema)
    if types and "number" not in types and "integer" not in types:
        return
    with contextlib.suppress(ValueError):
        if Interval.of(schema).low >= 0:
            return
    raise InvalidInput(
        f"{field}: the engine llama_cpp enforces multipleOf here only with a minimum of at least 0;"
        " transformers enforces it for all numbers",
        field=field,
    )


def _without_uri(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` with a pattern instead of the format `uri`, which the engine does not know and
    pydantic's `HttpUrl` generates."""
    if schema.get("format") != "uri":
        return schema
    rest = {key: value for key, value in schema.items() if key != "format"}
    if "pattern" not in rest:
        return rest | {"pattern": _URI}
    others = rest.get("allOf")
    return rest | {"allOf": [*(others if isinstance(others, list) else []), {"pattern": _URI}]}
