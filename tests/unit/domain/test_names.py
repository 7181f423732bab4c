"""Suggestions for misspelled names."""

from __future__ import annotations

from difflib import get_close_matches

import pytest

from maas.domain.names import MAX_SCORED, did_you_mean, nearest

NAMES = ("digits", "smollm2", "article", "article-v2")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("smolm2", "smollm2"),
        ("digts", "digits"),
        ("DIGITS", "digits"),
        ("articel", "article"),
        ("weather", None),
        ("", None),
        ("digits" * 100, None),
        ("\ud800", None),
    ],
)
def test_the_nearest_name_is_the_one_that_was_probably_meant(
    name: str, expected: str | None
) -> None:
    assert nearest(name, NAMES) == expected


def test_there_is_no_suggestion_without_names() -> None:
    assert nearest("digits", []) is None
    assert did_you_mean("digits", []) == ""


def test_the_suggestion_ends_a_message() -> None:
    assert did_you_mean("smolm2", NAMES) == "; did you mean 'smollm2'?"
    assert did_you_mean("weather", NAMES) == ""


def test_only_a_few_of_many_similar_names_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[int] = []

    def count(word: str, candidates: list[str], n: int) -> list[str]:
        scored.append(len(candidates))
        return get_close_matches(word, candidates, n)

    monkeypatch.setattr("maas.domain.names.get_close_matches", count)
    many = [f"recommendations-of-the-shop-in-production-{number:03}" for number in range(400)]
    assert nearest("recomendations-of-the-shop-in-production-217", many) == many[217]
    assert scored == [MAX_SCORED]
