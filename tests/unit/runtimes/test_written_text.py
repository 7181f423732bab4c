"""Tokens as text: whole characters, and nothing of a stop text."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from maas.domain.generation import TokenLogprob
from maas.runtimes.written_text import StopTexts, WrittenText


def decode(tokens: Sequence[int]) -> str:
    """Each token is a byte."""
    return bytes(tokens).decode(errors="replace")


def pieces(text: str, *stop: str, at_once: int = 1) -> list[str]:
    written = WrittenText(decode, stop)
    data = text.encode()
    told = [written.push(data[n : n + at_once]) for n in range(0, len(data), at_once)]
    return [*told, written.rest()]


@pytest.mark.parametrize("at_once", [1, 2, 3, 7])
@pytest.mark.parametrize("text", ["plain", "é ü 日本語 😀 end", "😀"])
def test_the_pieces_are_the_text_and_whole_characters(text: str, at_once: int) -> None:
    told = pieces(text, at_once=at_once)
    assert "".join(told) == text
    assert all("\ufffd" not in piece for piece in told)


def test_what_never_becomes_a_character_is_told_as_such() -> None:
    written = WrittenText(decode, [])
    assert written.push([0xF0]) + written.push([0x9F]) == ""
    assert written.rest() == "\ufffd"


@pytest.mark.parametrize(
    ("text", "stop", "told"),
    [
        ("one two three", [" two"], "one"),
        ("one two three", ["three", "two"], "one "),
        ("aaab", ["aab"], "a"),
        ("abcabd", ["abd"], "abc"),
        ("no stop", ["stops"], "no stop"),
        ("x", [""], "x"),
    ],
)
@pytest.mark.parametrize("at_once", [1, 4, 99])
def test_a_text_ends_before_its_first_stop(
    text: str, stop: list[str], told: str, at_once: int
) -> None:
    assert "".join(pieces(text, *stop, at_once=at_once)) == told


@pytest.mark.parametrize(
    ("text", "stop", "found"),
    [
        ("one two three", ["three", "two"], "two"),
        ("abcd", ["bcd", "c"], "c"),
        ("abcd", ["c", "bc"], "bc"),
        ("abcd", ["x"], ""),
        ("ab", ["abc"], ""),
    ],
)
@pytest.mark.parametrize("at_once", [1, 2, 99])
def test_it_says_which_stop_ended_it(text: str, stop: list[str], found: str, at_once: int) -> None:
    written = WrittenText(decode, stop)
    for n in range(0, len(text), at_once):
        written.push(text[n : n + at_once].encode())
    written.rest()
    assert written.stops.found == found


def test_the_logprobs_are_those_of_what_is_told() -> None:
    stops = StopTexts(["END"])
    told = []
    for text in ("a", "E", "x", "E", "N", "D"):
        said = stops.push(text)
        told.append([p.token for p in stops.logprobs([TokenLogprob(text, -1.0)], said, False)])
    assert told == [["a"], [], ["E", "x"], [], [], []]
    rest = StopTexts(["END"])
    assert rest.push("aE") == "a" and rest.rest() == "E"
    assert len(rest.logprobs([TokenLogprob("aE", -1.0)], "aE", True)) == 1


def test_what_cannot_be_a_stop_is_not_held_back() -> None:
    written = WrittenText(decode, ["END"])
    assert [written.push(b"a"), written.push(b"E"), written.push(b"x")] == ["a", "", "Ex"]
    assert not written.stops.found
