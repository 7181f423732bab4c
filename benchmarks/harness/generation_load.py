"""What every side is asked to write: the same prompts, answers of the same length."""

from __future__ import annotations

from typing import Any

ENDS = {"llama_cpp": [0, 2], "openvino": [2]}
"""Tokens that end a text of SmolLM2, as each engine knows them. They are forbidden, so that all
answers are equally long."""
_WORDS = ["river", "mountain", "copper", "window", "garden", "letter", "engine", "winter"]


def messages(number: int) -> list[dict[str, Any]]:
    """Another prompt for each number, so that nobody profits from work done before."""
    words = " ".join(_WORDS[(number * 7 + at * at) % len(_WORDS)] for at in range(6))
    return [{"role": "user", "content": f"Story {number} with these words: {words}."}]


def checked_count(used: int, wanted: int) -> None:
    if used != wanted:
        raise SystemExit(f"an answer had {used} tokens instead of {wanted}")
