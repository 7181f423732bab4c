"""Tokens as text while they are written: whole characters only, and no stop text.

`StopTexts` is for every engine of ours, since those that look for stop texts themselves do not say
which one they found. `SequenceText` is for engines that give token ids, of which a character may
take several. Most vocabularies are of bytes, and a text is the bytes of its tokens in a row:
`ByteDetokenizer` joins them. Where what a token looks like depends on the one before it,
`TokenDetokenizer` decodes the last few again with what is new, as vLLM does, which costs far more.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from maas.domain.generation import TokenLogprob, ToolCallPiece, joined_calls
from maas.runtimes.text.prompted_tools import CallReader

Decode = Callable[[Sequence[int]], str]
DecodeAll = Callable[[list[list[int]]], Sequence[str]]
_UNFINISHED = "\ufffd"
_LONGEST_CHARACTER = 4
"""Tokens; what has not become a character by then is none."""
_IN_A_ROW = 16
"""Tokens that are decoded together to see whether neighbors change each other."""


class StopTexts:
    """Finds where a text that comes in pieces ends: before the stop text that is complete first,
    the longest if several are at once. So it does not matter how the text was cut into pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [text for text in stops if text]
        self._held = ""
        """What may become a stop text."""
        self._logprobs: list[TokenLogprob] = []
        """Of what is held."""
        self._told = 0
        """Characters that were told and whose logprobs were not."""
        self.found = ""

    def push(self, text: str) -> str:
        """What can be told of all that came; once one is found, nothing."""
        if self.found or not self._stops:
            return "" if self.found else text
        self._held += text
        at = [(self._held.find(stop) + len(stop), -len(stop), stop)
              for stop in self._stops if stop in self._held]  # fmt: skip
        if at:
            end, _, self.found = min(at)
            cut = end - len(self.found)
        else:
            cut = len(self._held) - max(_overlap(self._held, stop) for stop in self._stops)
        told, self._held = self._held[:cut], self._held[cut:]
        return told

    def rest(self) -> str:
        """What is left when no more comes."""
        held, self._held = self._held, ""
        return "" if self.found else held

    def logprobs(self, new: list[TokenLogprob], told: str, is_last: bool) -> list[TokenLogprob]:
        """As many, with `new`, as belong to `told`, what is told now; nothing follows `is_last`."""
        if not self._stops:
            return new
        self._logprobs += new
        self._told += len(told)
        count = len(self._logprobs) if is_last and not self.found else 0
        for one in self._logprobs[count:]:
            if len(one.token) > self._told:
                break
            self._told -= len(one.token)
            count += 1
        ready, self._logprobs = self._logprobs[:count], self._logprobs[count:]
        return ready


class Detokenizer(Protocol):
    """The tokens of one text, made characters."""

    def push(self, tokens: Iterable[int]) -> str:
        """The characters that are whole with `tokens`."""

    def rest(self) -> str:
        """What is left when no more comes."""


class ByteDetokenizer:
    """A text whose tokens are bytes in a row (`bytes_of_tokens`)."""

    def __init__(self, of_tokens: Mapping[int, bytes]) -> None:
        self._of_tokens = of_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, tokens: Iterable[int]) -> str:
        # Models have rows for tokens that their tokenizers lack; such a token says nothing.
        return self._decoder.decode(b"".join(self._of_tokens.get(n, b"") for n in tokens))

    def rest(self) -> str:
        return self._decoder.decode(b"", final=True)


class TokenDetokenizer:
    """A text of tokens that are only understood together."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._before: list[int] = []
        """What was told last: context for what comes."""
        self._new: list[int] = []

    def push(self, tokens: Iterable[int]) -> str:
        text = ""
        for token in tokens:
            self._new.append(token)
            text += self._decoded(is_last=False)
        return text

    def rest(self) -> str:
        return self._decoded(is_last=True)

    def _decoded(self, is_last: bool) -> str:
        if not self._new:
            return ""
        known = self._decode(self._before) if self._before else ""
        text = self._decode(self._before + self._new)
        waits = text.endswith(_UNFINISHED) and len(self._new) < _LONGEST_CHARACTER
        if waits and not is_last:
            return ""
        self._before, self._new = self._new, []
        return text[len(known) :]


def read_tokens(of_tokens: Mapping[int, bytes] | None, decode: Decode) -> Detokenizer:
    """For a new text, with what `bytes_of_tokens` found."""
    return TokenDetokenizer(decode) if of_tokens is None else ByteDetokenizer(of_tokens)


class SequenceText:
    """The text of one sequence."""

    def __init__(
        self, reading: Detokenizer, stops: Sequence[str], calls: CallReader | None = None
    ) -> None:
        """`calls` takes out what is of a call, if the model may make one."""
        self._reading = reading
        self._calls = calls
        self._of_call: list[ToolCallPiece] = []
        self.stops = StopTexts(stops)

    def push(self, tokens: Iterable[int]) -> str:
        """What can be told after `tokens`; from a stop text on there is no more."""
        if self.stops.found:
            return ""
        return self.stops.push(self._said(self._reading.push(tokens), is_last=False))

    def rest(self) -> str:
        """What is left at the end."""
        said = self._said(self._reading.rest(), is_last=True)
        return self.stops.push(said) + self.stops.rest()

    @property
    def is_call(self) -> bool:
        return self._calls is not None and bool(self._calls.is_call)

    def taken_call(self) -> list[ToolCallPiece]:
        """What came of the call since the last time."""
        taken, self._of_call = self._of_call, []
        return joined_calls(taken)

    def _said(self, text: str, is_last: bool) -> str:
        """All but what is of a call."""
        if self._calls is None:
            return text
        text, found = self._calls.read(text, is_last)
        self._of_call += found
        return text


def bytes_of_tokens(
    tokens: Mapping[int, bytes], decode_all: DecodeAll
) -> Mapping[int, bytes] | None:
    """`tokens` as they stand in a text, those that are left out of it empty; None if a text is not
    the bytes of its tokens in a row.

    Every token is tried alone, and in a row with its neighbors in the vocabulary. Tokens that are
    parts of a character are taken at their word, since tokenizers differ in how they show these.
    """
    found = {}
    texts = decode_all([[number] for number in tokens])
    for (number, data), text in zip(tokens.items(), texts, strict=True):
        whole = _whole(data)
        if text and whole is not None and text != whole:
            return None
        found[number] = b"" if not text and whole is not None else data
    numbers = list(tokens)
    rows = [numbers[at : at + _IN_A_ROW] for at in range(0, len(numbers), _IN_A_ROW)]
    for row, text in zip(rows, decode_all(rows), strict=True):
        whole = _whole(b"".join(found[number] for number in row))
        if whole is not None and text != whole:
            return None
    return found


def _whole(data: bytes) -> str | None:
    """None if it begins or ends within a character."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
