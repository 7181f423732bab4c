"""Incremental detokenization: whole characters only, and nothing of a stop sequence.

`StopTexts` is used by all engines, since those that match stop sequences themselves do not report
which one matched. `SequenceText` is for engines that return token ids, of which a character may
take several. In most vocabularies a text is the concatenated bytes of its tokens:
`ByteDetokenizer`. Where the text of a token depends on the previous one, `TokenDetokenizer` decodes
the last few tokens again with every new one, as vLLM does, which is far slower.
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
"""Most tokens of a character; tokens that are not a character by then are invalid."""
_ROW_TOKENS = 16
"""Tokens that are decoded together to check whether neighbors change each other."""


class StopTexts:
    """Cuts streamed text before the stop sequence that completes first, the longest of several.

    The result does not depend on how the text is split into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [text for text in stops if text]
        self._pending = ""
        """Text that may become a stop sequence."""
        self._logprobs: list[TokenLogprob] = []
        """Logprobs of tokens whose text is not emitted yet."""
        self._characters = 0
        """Emitted characters whose logprobs are not emitted yet."""
        self.match = ""
        """The stop sequence that matched."""

    def push(self, text: str) -> str:
        """The text that can be emitted once `text` is added; nothing after a match."""
        if self.match or not self._stops:
            return "" if self.match else text
        self._pending += text
        matches = []
        for stop in self._stops:
            at = self._pending.find(stop)
            if at >= 0:
                matches.append((at + len(stop), -len(stop), stop))
        if matches:
            end, _, self.match = min(matches)
            cut = end - len(self.match)
        else:
            cut = len(self._pending) - max(_overlap(self._pending, stop) for stop in self._stops)
        ready, self._pending = self._pending[:cut], self._pending[cut:]
        return ready

    def rest(self) -> str:
        """The remaining text, when no more comes."""
        rest, self._pending = self._pending, ""
        return "" if self.match else rest

    def logprobs(self, new: list[TokenLogprob], text: str, is_last: bool) -> list[TokenLogprob]:
        """The logprobs, with `new` ones added, that belong to the emitted `text`."""
        if not self._stops:
            return new
        self._logprobs += new
        self._characters += len(text)
        count = len(self._logprobs) if is_last and not self.match else 0
        for one in self._logprobs[count:]:
            if len(one.token) > self._characters:
                break
            self._characters -= len(one.token)
            count += 1
        ready, self._logprobs = self._logprobs[:count], self._logprobs[count:]
        return ready


class Detokenizer(Protocol):
    """Turns the tokens of one text into characters."""

    def push(self, tokens: Iterable[int]) -> str:
        """The characters that `tokens` complete."""

    def rest(self) -> str:
        """The remaining characters, when no more tokens come."""


class ByteDetokenizer:
    """For texts that are the concatenated bytes of their tokens (`bytes_of_tokens`)."""

    def __init__(self, token_bytes: Mapping[int, bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, tokens: Iterable[int]) -> str:
        # Models have rows for tokens that their tokenizers lack; such a token has no text.
        return self._decoder.decode(b"".join(self._token_bytes.get(n, b"") for n in tokens))

    def rest(self) -> str:
        return self._decoder.decode(b"", final=True)


class TokenDetokenizer:
    """For texts whose tokens must be decoded together."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._context: list[int] = []
        """The tokens emitted last, which the next ones may depend on."""
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
        context = self._decode(self._context) if self._context else ""
        text = self._decode(self._context + self._new)
        is_unfinished = text.endswith(_UNFINISHED) and len(self._new) < _LONGEST_CHARACTER
        if is_unfinished and not is_last:
            return ""
        self._context, self._new = self._new, []
        return text[len(context) :]


def new_detokenizer(token_bytes: Mapping[int, bytes] | None, decode: Decode) -> Detokenizer:
    """A detokenizer for a new text, given the result of `bytes_of_tokens`."""
    return TokenDetokenizer(decode) if token_bytes is None else ByteDetokenizer(token_bytes)


class SequenceText:
    """The text of one sequence, without stop sequences and tool calls."""

    def __init__(
        self, detokenizer: Detokenizer, stops: Sequence[str], calls: CallReader | None = None
    ) -> None:
        """`calls` extracts a tool call, if the model may make one."""
        self._detokenizer = detokenizer
        self._calls = calls
        self._call_pieces: list[ToolCallPiece] = []
        self.stops = StopTexts(stops)

    def push(self, tokens: Iterable[int]) -> str:
        """The text that can be emitted after `tokens`; nothing after a stop sequence."""
        if self.stops.match:
            return ""
        text = self._without_call(self._detokenizer.push(tokens), is_last=False)
        return self.stops.push(text)

    def rest(self) -> str:
        """The remaining text, at the end of the sequence."""
        text = self._without_call(self._detokenizer.rest(), is_last=True)
        return self.stops.push(text) + self.stops.rest()

    @property
    def is_call(self) -> bool:
        return self._calls is not None and bool(self._calls.is_call)

    def next_call_pieces(self) -> list[ToolCallPiece]:
        """The pieces of the tool call since the last time."""
        pieces, self._call_pieces = self._call_pieces, []
        return joined_calls(pieces)

    def _without_call(self, text: str, is_last: bool) -> str:
        if self._calls is None:
            return text
        text, pieces = self._calls.read(text, is_last)
        self._call_pieces += pieces
        return text


def bytes_of_tokens(
    tokens: Mapping[int, bytes], decode_all: DecodeAll
) -> Mapping[int, bytes] | None:
    """The bytes that each token has in a text, which are none for tokens that are left out of it.

    None if a text is not the concatenated bytes of its tokens. Every token is decoded alone, and in
    a row with its neighbors in the vocabulary. Tokens that are parts of a character count as their
    own bytes, since tokenizers differ in how they print these.
    """
    token_bytes = {}
    texts = decode_all([[number] for number in tokens])
    for (number, data), text in zip(tokens.items(), texts, strict=True):
        whole = _text_or_none(data)
        if text and whole is not None and text != whole:
            return None
        token_bytes[number] = b"" if not text and whole is not None else data
    numbers = list(tokens)
    rows = [numbers[at : at + _ROW_TOKENS] for at in range(0, len(numbers), _ROW_TOKENS)]
    for row, text in zip(rows, decode_all(rows), strict=True):
        whole = _text_or_none(b"".join(token_bytes[number] for number in row))
        if whole is not None and text != whole:
            return None
    return token_bytes


def _text_or_none(data: bytes) -> str | None:
    """The text of `data`; None if it begins or ends within a character."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _overlap(text: str, stop: str) -> int:
    """Number of characters at the end of `text` that begin `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
