"""Syntax of user-chosen names: models, deployments, keys, tensors, files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from heapq import nlargest
from itertools import islice

from maas.domain.errors import InvalidInput

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
TENSOR_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/ -]{0,127}")
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
SHA256 = re.compile(r"[0-9a-f]{64}")
LONGEST_NAME = 63
MAX_COMPARED = 500
"""Names compared with a misspelled one: suggesting one must stay cheap for a server."""
MAX_SCORED = 5
"""Names of these whose similarity is computed: about 1 ms each for long names that are alike."""


def checked_name(value: str, what: str = "name") -> str:
    """`value`, if it is a valid name of a model, deployment, variant or key.

    Names are lower-case letters, digits, '.', '_' and '-', start with a letter or digit and have
    at most 63 characters, so that they are safe in a path, a URL and a host label. Raises
    InvalidInput with the field `what` for any other value.
    """
    if not NAME.fullmatch(value) or ".." in value:
        raise InvalidInput(
            f"{what} must be 1 to 63 of a-z, 0-9, '.', '_' or '-', starting with a letter or "
            f"digit; got {shown(value)}",
            field=what,
        )
    return value


def checked_sha256(value: str) -> str:
    if not SHA256.fullmatch(value):
        raise InvalidInput(
            f"a SHA-256 digest must be 64 lower-case hexadecimal digits; got {shown(value)}"
        )
    return value


def shown(value: object, limit: int = 60) -> str:
    """`value` for an error message: printable ASCII, cut to `limit` characters."""
    text = ascii(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def joined(items: Sequence[str], most: int) -> str:
    """At most `most` of the items with commas between them, and the number of the others."""
    text = ", ".join(items[:most])
    if len(items) > most:
        text += f" and {len(items) - most} more"
    return text


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that `name` most likely misspells; None if none is close."""
    if len(name) > LONGEST_NAME:
        return None
    word = name.lower()
    compared = islice(names, MAX_COMPARED)
    likely = nlargest(MAX_SCORED, compared, key=lambda other: _shared_ends(word, other))
    matches = get_close_matches(word, likely, n=1)
    return matches[0] if matches else None


def _shared_ends(a: str, b: str) -> int:
    """The number of characters in the common beginning and the common end of two texts."""
    shorter = min(len(a), len(b))
    start = 0
    while start < shorter and a[start] == b[start]:
        start += 1
    end = 0
    while end < shorter - start and a[-1 - end] == b[-1 - end]:
        end += 1
    return start + end


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of a message about an unknown name: `; did you mean 'smollm2'?`, or nothing."""
    suggestion = nearest(name, names)
    return f"; did you mean {shown(suggestion)}?" if suggestion is not None else ""


@dataclass(frozen=True)
class ModelRef:
    """`digits` (the newest version) or `digits:3`."""

    model: str
    version: int | None = None

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        model, colon, number = text.partition(":")
        checked_name(model, "model")
        if not colon:
            return cls(model)
        if not number.isascii() or not number.isdigit() or not 0 < len(number) <= 9:
            raise InvalidInput(f"a version must be a whole number from 1; got {shown(number)}")
        return cls(model, int(number))

    def __str__(self) -> str:
        return self.model if self.version is None else f"{self.model}:{self.version}"
