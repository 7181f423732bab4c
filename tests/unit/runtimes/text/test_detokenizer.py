"""Detokenizing: whole characters, and nothing of a stop sequence."""

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


def detokenizer(of_bytes: bool = False) -> Detokenizer:
    if of_bytes:
        return ByteDetokenizer({n: bytes([n]) for n in range(256)})
    return TokenDetokenizer(decode)


def pieces(text: str, *stop: str, at_once: int = 1, of_bytes: bool = False) -> list[str]:
    sequence = SequenceText(detokenizer(of_bytes), stop)
    data = text.encode()
    parts = [sequence.push(data[n : n + at_once]) for n in range(0, len(data), at_once)]
    return [*parts, sequence.rest()]


@pytest.mark.parametrize("of_bytes", [False, True])
@pytest.mark.parametrize("at_once", [1, 2, 3, 7])
@pytest.mark.parametrize("text", ["plain", "é ü 日本語 😀 end", "😀"])
def test_the_pieces_are_the_text_and_whole_characters(
    text: str, at_once: int, of_bytes: bool
) -> None:
    parts = pieces(text, at_once=at_once, of_bytes=of_bytes)
    assert "".join(parts) == text
    assert all("\ufffd" not in part for part in parts)


@pytest.mark.parametrize("of_bytes", [False, True])
def test_an_incomplete_character_becomes_a_replacement_character(of_bytes: bool) -> None:
    sequence = SequenceText(detokenizer(of_bytes), [])
    assert sequence.push([0xF0]) + sequence.push([0x9F]) == ""
    assert sequence.rest() == "\ufffd"


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
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
def test_a_text_ends_before_its_first_stop_sequence(
    text: str, stop: list[str], expected: str, at_once: int
) -> None:
    assert "".join(pieces(text, *stop, at_once=at_once)) == expected


@pytest.mark.parametrize(
    ("text", "stop", "match"),
    [
        ("one two three", ["three", "two"], "two"),
        ("abcd", ["bcd", "c"], "c"),
        ("abcd", ["c", "bc"], "bc"),
        ("abcd", ["x"], ""),
        ("ab", ["abc"], ""),
    ],
)
@pytest.mark.parametrize("at_once", [1, 2, 99])
def test_the_matching_stop_sequence_is_reported(
    text: str, stop: list[str], match: str, at_once: int
) -> None:
    sequence = SequenceText(detokenizer(), stop)
    for n in range(0, len(text), at_once):
        sequence.push(text[n : n + at_once].encode())
    sequence.rest()
    assert sequence.stops.match == match


def test_logprobs_are_emitted_with_their_text() -> None:
    stops = StopTexts(["END"])
    emitted = []
    for text in ("a", "E", "x", "E", "N", "D"):
        ready = stops.push(text)
        logprobs = stops.logprobs([TokenLogprob(text, -1.0)], ready, False)
        emitted.append([one.token for one in logprobs])
    assert emitted == [["a"], [], ["E", "x"], [], [], []]
    rest = StopTexts(["END"])
    assert rest.push("aE") == "a" and rest.rest() == "E"
    assert len(rest.logprobs([TokenLogprob("aE", -1.0)], "aE", True)) == 1


def test_text_that_cannot_become_a_stop_sequence_is_emitted_at_once() -> None:
    sequence = SequenceText(detokenizer(), ["END"])
    assert [sequence.push(b"a"), sequence.push(b"E"), sequence.push(b"x")] == ["a", "", "Ex"]
    assert not sequence.stops.match


def test_a_token_without_text_in_the_vocabulary_is_skipped() -> None:
    assert SequenceText(ByteDetokenizer({0: b"a"}), []).push([0, 1, 0]) == "aa"


@pytest.mark.parametrize("broken", ["replace", "ignore"])
def test_tokens_are_their_bytes_however_half_characters_are_decoded(broken: str) -> None:
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
