"""Tokens as text while they are written: whole characters only, and no stop text.

For engines that give token ids. A character may take several tokens, and what a token looks like
may depend on the one before it; so the last few are decoded again with what is new, as vLLM does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
_UNFINISHED = "\ufffd"
_LONGEST_CHARACTER = 4
"""Tokens; what has not become a character by then is none."""


class WrittenText:
    """The text of one sequence."""

    def __init__(self, decode: Decode, stop: Sequence[str]) -> None:
        self._decode = decode
        self._stop = [text for text in stop if text]
        self._before: list[int] = []
        """What was told last: context for what comes."""
        self._new: list[int] = []
        self._held = ""
        """What may become a stop text."""
        self.is_stopped = False

    def push(self, tokens: Sequence[int]) -> str:
        """What can be told after `tokens`; from a stop text on there is no more."""
        if self.is_stopped:
            return ""
        text = ""
        for token in tokens:
            self._new.append(token)
            text += self._decoded(is_last=False)
        return self._without_stop(text)

    def rest(self) -> str:
        """What is left at the end."""
        if self.is_stopped:
            return ""
        text = self._without_stop(self._decoded(is_last=True))
        held, self._held = self._held, ""
        return text + held

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

    def _without_stop(self, text: str) -> str:
        if not self._stop:
            return text
        self._held += text
        found = [at for at in map(self._held.find, self._stop) if at >= 0]
        if found:
            self.is_stopped = True
            told, self._held = self._held[: min(found)], ""
            return told
        longest = max(_overlap(self._held, stop) for stop in self._stop)
        cut = len(self._held) - longest
        told, self._held = self._held[:cut], self._held[cut:]
        return told


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
