"""Tokens as text while they are written: whole characters only, and no stop text.

`StopTexts` is for every engine of ours, since those that look for stop texts themselves do not say
which one they found. `WrittenText` is for engines that give token ids: a character may take several
tokens, and what a token looks like may depend on the one before it; so the last few are decoded
again with what is new, as vLLM does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from maas.domain.generation import TokenLogprob, ToolCallPiece
from maas.runtimes.plain_tools import CallReader

Decode = Callable[[Sequence[int]], str]
_UNFINISHED = "\ufffd"
_LONGEST_CHARACTER = 4
"""Tokens; what has not become a character by then is none."""


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


class WrittenText:
    """The text of one sequence, and the call in it, if `calls` looks for one."""

    def __init__(
        self, decode: Decode, stops: Sequence[str], calls: CallReader | None = None
    ) -> None:
        self._decode = decode
        self._calls = calls
        self._of_call: list[ToolCallPiece] = []
        self.stops = StopTexts(stops)
        self._before: list[int] = []
        """What was told last: context for what comes."""
        self._new: list[int] = []

    def push(self, tokens: Sequence[int]) -> str:
        """What can be told after `tokens`; from a stop text on there is no more."""
        if self.stops.found:
            return ""
        text = ""
        for token in tokens:
            self._new.append(token)
            text += self._decoded(is_last=False)
        return self.stops.push(self._said(text, is_last=False))

    def rest(self) -> str:
        """What is left at the end."""
        said = self._said(self._decoded(is_last=True), is_last=True)
        return self.stops.push(said) + self.stops.rest()

    def taken_call(self) -> list[ToolCallPiece]:
        """What came of the call since the last time."""
        taken, self._of_call = self._of_call, []
        return taken

    def _said(self, text: str, is_last: bool) -> str:
        """All but what is of a call."""
        if self._calls is None:
            return text
        text, found = self._calls.read(text, is_last)
        self._of_call += found
        return text

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


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
