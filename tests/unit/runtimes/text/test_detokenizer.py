"""Tokens as text: whole characters, and nothing of a stop text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from maas.domain.generation import TokenLogprob
from maas.runtimes.text.detokenizer import (
    ByteDetokenizer,
    Detokenizer,
    SequenceText,
    StopTexts,
    TokenDetokenizer,
    bytes_of_tokens,
)


def decode(tokens: Sequence[int]) -> str:
    """Each token is a byte."""
    return bytes(tokens).decode(errors="replace")


def reading(of_bytes: bool = False) -> Detokenizer:
    return (
        ByteDetokenizer({n: bytes([n]) for n in range(256)})
        if of_bytes
        else TokenDetokenizer(decode)
    )


def pieces(text: str, *stop: str, at_once: int = 1, of_bytes: bool = False) -> list[str]:
    written = SequenceText(reading(of_bytes), stop)
    data = text.encode()
    told = [written.push(data[n : n + at_once]) for n in range(0, len(data), at_once)]
    return [*told, written.rest()]


@pytest.mark.parametrize("of_bytes", [False, True])
@pytest.mark.parametrize("at_once", [1, 2, 3, 7])
@pytest.mark.parametrize("text", ["plain", "é ü 日本語 😀 end", "😀"])
def test_the_pieces_are_the_text_and_whole_characters(
    text: str, at_once: int, of_bytes: bool
) -> None:
    told = pieces(text, at_once=at_once, of_bytes=of_bytes)
    assert "".join(told) == text
    assert all("\ufffd" not in piece for piece in told)


@pytest.mark.parametrize("of_bytes", [False, True])
def test_what_never_becomes_a_character_is_told_as_such(of_bytes: bool) -> None:
    written = SequenceText(reading(of_bytes), [])
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
    written = SequenceText(reading(), stop)
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
    written = SequenceText(reading(), ["END"])
    assert [written.push(b"a"), written.push(b"E"), written.push(b"x")] == ["a", "", "Ex"]
    assert not written.stops.found


def test_a_token_that_only_the_model_knows_says_nothing() -> None:
    assert SequenceText(ByteDetokenizer({0: b"a"}), []).push([0, 1, 0]) == "aa"


@pytest.mark.parametrize("broken", ["replace", "ignore"])
def test_tokens_are_their_bytes_however_half_characters_are_shown(broken: str) -> None:
    tokens = {0: b"<end>", 1: b"a", 2: "ü ".encode(), 3: b"\xf0\x9f", 4: b"\x98\x80"}

    def decoded(row: list[int]) -> str:
        return b"".join(tokens[n] for n in row if n).decode(errors=broken)

    def all_decoded(rows: list[list[int]]) -> list[str]:
        return [decoded(row) for row in rows]

    assert bytes_of_tokens(tokens, all_decoded) == tokens | {0: b""}


@pytest.mark.parametrize(
    "decoded",
    [
        lambda row: b"".join(row).decode().lstrip(),
        lambda row: b"".join(row).decode().replace(" .", "."),
        lambda row: b" ".join(row).decode(),
    ],
    ids=["first space is left out", "spaces are cleaned up", "words get spaces"],
)
def test_tokens_are_not_their_bytes_where_neighbors_matter(
    decoded: Callable[[list[bytes]], str],
) -> None:
    tokens = {0: b"a", 1: b" ", 2: b".", 3: b"b"}
    rows = lambda numbers: [decoded([tokens[n] for n in row]) for row in numbers]  # noqa: E731
    assert bytes_of_tokens(tokens, rows) is None
