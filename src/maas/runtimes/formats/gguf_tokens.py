"""The vocabulary of a GGUF file, read from its header."""

from __future__ import annotations

import struct
from pathlib import Path

from maas.runtimes.formats.gguf import GgufSummary

_U64 = struct.Struct("<Q")


def gguf_tokens(path: Path, summary: GgufSummary) -> list[bytes]:
    """The token texts of a GGUF file, in the order of their ids; empty if the file has none.

    `summary` is what `check_gguf` returned for this file.
    """
    count = summary.vocabulary
    if summary.tokens_at is None or count is None:
        return []
    with path.open("rb") as stream:
        header = stream.read(summary.header_bytes)
    tokens, at = [], summary.tokens_at
    for _ in range(count):
        (length,) = _U64.unpack_from(header, at)
        tokens.append(header[at + 8 : at + 8 + length])
        at += 8 + length
    return tokens
