"""Prompts and answer length that all sides of the generation benchmark share."""

from __future__ import annotations

from typing import Any

END_TOKENS = {"llama_cpp": [0, 2], "openvino": [2]}
"""End tokens of SmolLM2 for each engine. They are forbidden, so that all answers have equal length.
"""
_WORDS = ["river", "mountain", "copper", "window", "garden", "letter", "engine", "winter"]


def messages(number: int) -> list[dict[str, Any]]:
    """A different prompt for each number, so that no cached prefix can be reused."""
    words = " ".join(_WORDS[(number * 7 + at * at) % len(_WORDS)] for at in range(6))
    return [{"role": "user", "content": f"Story {number} with these words: {words}."}]


def checked_count(tokens: int, expected: int) -> None:
    """Exits if an answer has another number of tokens than expected."""
    if tokens != expected:
        raise SystemExit(f"an answer must have {expected} tokens; got {tokens}")
