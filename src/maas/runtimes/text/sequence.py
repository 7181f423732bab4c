"""A sequence of a stepped engine: its tokens, decoded and emitted piece by piece."""

from __future__ import annotations

import logging
from typing import Any

from maas.domain.generation import Ending, Generation, Piece, TokenLogprob
from maas.runtimes.base import Sink
from maas.runtimes.text.detokenizer import SequenceText

log = logging.getLogger(__name__)


class Sequence:
    """A text that is being generated, and its usage so far."""

    def __init__(self, number: int, generation: Generation, sink: Sink) -> None:
        self.number = number
        self.generation = generation
        self.sink = sink
        self.reserved = 0
        """Tokens of the KV cache that are reserved for it."""
        self.is_cancelled = False
        self.is_prepared = False
        """Whether its prompt is tokenized, so that the stepping thread reports its end."""
        self.prompt_tokens = self.completion_tokens = 0
        self.limit = 0
        """Most tokens to generate."""
        self.text: SequenceText | None = None
        self.has_output = False
        """Whether any of its text has been emitted."""
        self.is_complete = False
        """Whether all of its text has been emitted."""
        self.work: Any = None
        """State of the subclass for this sequence."""
        self._new_tokens: list[int] = []
        self._unsent_text = ""
        self._unsent_logprobs: list[TokenLogprob] = []
        self._sent_tokens = 0

    @property
    def stop(self) -> str:
        """The stop sequence that ended the text, or an empty string."""
        return "" if self.text is None else self.text.stops.match

    def add(self, tokens: list[int], logprobs: list[TokenLogprob]) -> None:
        """Adds generated `tokens` that are text and already count in `completion_tokens`."""
        self._new_tokens += tokens
        self._unsent_logprobs += logprobs

    def decode(self) -> None:
        """Decodes the tokens that were added; afterwards `stop` is known."""
        tokens, self._new_tokens = self._new_tokens, []
        if self.text is not None:
            self._unsent_text += self.text.push(tokens)

    def next_piece(self, *, is_last: bool) -> Piece:
        """The text and tool calls that were decoded and not yet emitted."""
        text, logprobs, calls = self._unsent_text, self._unsent_logprobs, []
        if self.text is not None:
            if is_last:
                text += self.text.rest()
            logprobs = self.text.stops.logprobs(logprobs, text, is_last)
            calls = self.text.next_call_pieces()
        self._unsent_text, self._unsent_logprobs = "", []
        count = self.completion_tokens - self._sent_tokens
        self._sent_tokens = self.completion_tokens
        self.has_output = self.has_output or bool(text or calls)
        self.is_complete = is_last
        return Piece(text, count, logprobs, calls)

    def last_piece(self) -> Piece:
        """The rest of a sequence that ends early, for whatever reason."""
        try:
            self.decode()
            return self.next_piece(is_last=True)
        except Exception:
            log.exception("the last tokens of a sequence cannot be decoded")
            return Piece("", self.completion_tokens - self._sent_tokens)

    def ending(self, reason: str, prompt_tokens: int | None = None) -> Ending:
        """The ending with the counts; `prompt_tokens` if not all of the prompt was computed."""
        if reason == "stop" and self.text is not None and self.text.is_call:
            reason = "tool_calls"
        stop = self.stop if reason == "stop" else ""
        if prompt_tokens is None:
            prompt_tokens = self.prompt_tokens
        return Ending(reason, prompt_tokens, self.completion_tokens, stop=stop)
