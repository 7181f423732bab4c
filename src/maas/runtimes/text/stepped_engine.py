"""What engines have in common that write all their texts step by step.

Prompts are read in one thread, and the engine takes its turns in another, or where its owner calls
`turn`; one call of a sink per sequence and step tells what it wrote, an empty piece if nothing, but
what need not be told yet is kept (`is_time`). A sequence is known by its number from `start` until
its sink was told how it ended.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from maas.domain.errors import InferenceFailed, InvalidInput, MaasError
from maas.domain.generation import Ending, Generation, Piece, TokenLogprob
from maas.runtimes.base import Sink
from maas.runtimes.text.chat_template import ChatTemplate
from maas.runtimes.text.detokenizer import SequenceText
from maas.runtimes.text.engine import TextEngine
from maas.runtimes.text.options import Sizes, fitting
from maas.runtimes.text.stream_chunks import too_long

log = logging.getLogger(__name__)

READING_SECONDS = 0.01
"""How long a step waits at most for prompts that are being read, so that it has many of them: a
step costs about as much with one prompt as with a batch full. Some engines hold the interpreter's
lock while they step, so that no prompt is read meanwhile."""


class Sequence:
    """A text that is being written, and what it has cost so far."""

    def __init__(self, number: int, generation: Generation, sink: Sink) -> None:
        self.number = number
        self.generation = generation
        self.sink = sink
        self.reserved = 0
        """Tokens of the common memory that are kept for it."""
        self.is_cancelled = False
        self.is_read = False
        """Whether its prompt is, so that whoever takes the turns has to say how it ends."""
        self.prompt_tokens = self.completion_tokens = 0
        self.limit = 0
        """Most tokens that it may write."""
        self.text: SequenceText | None = None
        self.has_spoken = False
        """Whether any words of it were told."""
        self.is_over = False
        """Whether all of it was told."""
        self._unread: list[int] = []
        self._untold = ""
        self._untold_logprobs: list[TokenLogprob] = []
        self._told_tokens = 0
        self.work: Any = None
        """What the engine itself keeps for it."""

    @property
    def stop(self) -> str:
        """The stop text that was found, if one was."""
        return "" if self.text is None else self.text.stops.found

    def wrote(self, tokens: list[int], logprobs: list[TokenLogprob]) -> None:
        """`tokens` that are text, which `completion_tokens` has counted."""
        self._unread += tokens
        self._untold_logprobs += logprobs

    def read(self) -> None:
        """Makes text of what it wrote; `stop` is known after it."""
        tokens, self._unread = self._unread, []
        if self.text is not None:
            self._untold += self.text.push(tokens)

    def told(self, *, is_last: bool) -> Piece:
        """What was read and not told, with what came of a call; nothing follows `is_last`."""
        text, logprobs, calls = self._untold, self._untold_logprobs, []
        if self.text is not None:
            if is_last:
                text += self.text.rest()
            logprobs = self.text.stops.logprobs(logprobs, text, is_last)
            calls = self.text.taken_call()
        self._untold, self._untold_logprobs = "", []
        count = self.completion_tokens - self._told_tokens
        self._told_tokens = self.completion_tokens
        self.has_spoken = self.has_spoken or bool(text or calls)
        self.is_over = is_last
        return Piece(text, count, logprobs, calls)

    def rest(self) -> Piece:
        """What was not told of one that ends before its time, whatever the reason."""
        try:
            self.read()
            return self.told(is_last=True)
        except Exception:
            log.exception("what a sequence wrote last cannot be read")
            return Piece("", self.completion_tokens - self._told_tokens)

    def ending(self, reason: str, read: int | None = None) -> Ending:
        """`read`: how many tokens of its prompt were computed, if not all."""
        if reason == "stop" and self.text is not None and self.text.is_call:
            reason = "tool_calls"
        stop = self.stop if reason == "stop" else ""
        prompt_tokens = self.prompt_tokens if read is None else read
        return Ending(reason, prompt_tokens, self.completion_tokens, stop=stop)


def _nothing() -> None:
    """Nobody wants to know of steps."""


def _always() -> bool:
    """Whoever listens wants to hear every step."""
    return True


class SteppedEngine(TextEngine[Sequence], ABC):
    """The life of sequences. Subclasses load a model, call `_begin`, and do the four steps."""

    def __init__(self) -> None:
        super().__init__()
        self._after_step: Callable[[], None] = _nothing
        self._is_output_due: Callable[[], bool] = _always
        self._running: dict[int, Sequence] = {}
        """In the engine; of whoever takes the turns."""
        self._memory = 0
        """Tokens that the engine has room for, with what control's proof needs."""
        self._known_tokens = 0
        self._template: ChatTemplate | None = None
        self._reading = 0
        """Started and not yet read."""
        self._waits_since = 0.0
        """When a step began to wait for prompts; 0 if none does."""
        self._ready: list[Sequence] = []
        """Read by us and not yet by the engine."""
        self._batch_tokens = 0
        """Of prompts that are read in one step."""
        self._wake = threading.Condition()
        self._has_work: Callable[[], None] = _nothing
        self._is_turned_elsewhere = self._is_closed = False
        self._lost: InferenceFailed | None = None
        """Why the engine ended before it was closed."""

    # -- what an engine does ----------------------------------------------------------------

    @abstractmethod
    def _encoded(self, text: str, *, is_plain: bool) -> list[int]:
        """Tokens of a text; a plain one gets those that the model puts around every text, a
        rendered one has them."""

    @abstractmethod
    def _prepare(self, sequence: Sequence) -> None:
        """Reads the prompt, with `_checked` and `_take_prompt`; raises MaasError."""

    @abstractmethod
    def _admit(self, sequence: Sequence) -> None:
        """Gives a sequence to the engine; raises MaasError if that refuses it."""

    @abstractmethod
    def _step(self) -> None:
        """Computes a step of all in `_running`, tells their sinks (`_tell`), has who ended
        `_leave`."""

    @abstractmethod
    def _unload(self) -> None:
        """Lets go of the model; nobody asks it any more."""

    # -- life ---------------------------------------------------------------------------------

    def _set_sizes(self, sizes: Sizes, batch: int, for_proof: int) -> None:
        """`batch`: tokens of prompts that are read in one step; `for_proof`: tokens of memory
        besides those of callers."""
        self.context_length, self.slots, self._pool = sizes.context, sizes.slots, sizes.pool
        self._memory = self._pool + for_proof
        self._batch_tokens = batch

    def _set_template(self, source: str, special: dict[str, Any]) -> None:
        self.has_chat_template = bool(source)
        if source:
            self._template = ChatTemplate(source, special)

    def _begin(self) -> None:
        """Once the model is loaded."""
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        self._engine = threading.Thread(target=self._run, name="engine", daemon=True)
        self._engine.start()

    def start(self, number: int, generation: Generation, sink: Sink) -> None:
        sequence = Sequence(number, generation, sink)
        sequence.reserved = self._most_tokens(generation)
        self._sequences[number] = sequence
        with self._wake:
            self._reading += 1
        self._reader.submit(self._read, sequence)

    def on_step(self, callback: Callable[[], None]) -> None:
        self._after_step = callback

    def defer_output(self, is_due: Callable[[], bool]) -> bool:
        self._is_output_due = is_due
        return True

    def close(self) -> None:
        self._cancel_all()
        self._reader.shutdown(wait=True)
        with self._wake:
            self._is_closed = True
            self._wake.notify()
        self._engine.join()
        while self.turn() is not None:
            pass  # whoever took the turns has stopped
        if self._template is not None:
            self._template.close()
        self._unload()

    def _hand_over(self, has_work: Callable[[], None]) -> None:
        """The thread ends; from here on its owner calls `turn`, in one thread, after each call of
        `has_work`, which comes from any."""
        self._has_work = has_work
        with self._wake:
            self._is_turned_elsewhere = True
            self._wake.notify()
        self._engine.join()

    # -- prompts, in a thread of their own --------------------------------------------------

    def _read(self, sequence: Sequence) -> None:
        said = self._read_prompt(sequence)
        with self._wake:
            self._reading -= 1
            if said is None:
                said = self._lost
            if said is None:
                sequence.is_read = True
                self._ready.append(sequence)
            self._wake.notify()
        if said is not None:
            self._end(sequence, said)
        self._has_work()

    def _read_prompt(self, sequence: Sequence) -> Ending | MaasError | None:
        """What is said of it at once, if it never comes to the engine."""
        try:
            self._prepare(sequence)
        except MaasError as wrong:
            return wrong
        except Exception:
            log.exception("a prompt could not be read")
            return InferenceFailed("the engine failed on this request")
        return sequence.ending("length") if sequence.generation.max_tokens == 0 else None

    def _checked(self, sequence: Sequence) -> Generation:
        return self._vocabulary.checked(sequence.generation, self.context_length)

    def _take_prompt(
        self, sequence: Sequence, generation: Generation, messages: list[dict[str, Any]]
    ) -> list[int]:
        """The prompt's tokens; from here on it is known how many the sequence has at most.

        `messages` as the template gets them. Raises InvalidInput, ContextLengthExceeded.
        """
        if isinstance(generation.prompt, list):
            self._check_tokens(generation.prompt, "prompt")
            ids = list(generation.prompt)
        elif generation.prompt is not None:
            ids = self._encoded(generation.prompt, is_plain=True)
        else:
            if self._template is None:
                raise InvalidInput("this model has no chat template", field="messages")
            ids = self._encoded(self._template.render(messages), is_plain=False)
        if not ids:
            raise InvalidInput("the prompt is empty", field="prompt")
        if len(ids) >= self.context_length:
            raise too_long(len(ids), self.context_length)
        room = self.context_length - len(ids)
        wanted = generation.max_tokens
        sequence.limit = room if wanted is None else min(room, wanted)
        sequence.prompt_tokens = len(ids)
        sequence.reserved = len(ids) + sequence.limit
        return ids

    def _check_tokens(self, tokens: Any, what: str) -> None:
        unknown = [token for token in tokens if not 0 <= token < self._known_tokens]
        if unknown:
            raise InvalidInput(
                f"{what}: there is no token {unknown[0]}; the model has {self._known_tokens}",
                field=what,
            )

    # -- the engine -----------------------------------------------------------------------------

    def _run(self) -> None:
        """The thread that takes the turns if nobody else does."""
        while self._lost is None and self._await_work():
            wait = self.turn()
            self._after_step()
            if wait:
                with self._wake:
                    self._wake.wait_for(self._has_prompts, wait)

    def _await_work(self) -> bool:
        """False: there will be none here."""
        with self._wake:
            while not (self._running or self._ready):
                if self._is_closed or self._is_turned_elsewhere:
                    return False
                self._wake.wait()
        return True

    def turn(self) -> float | None:
        """Gives new sequences to the engine and computes a step. Seconds after which it is to be
        called again, 0 for at once; None if there is nothing to do."""
        with self._wake:
            if self._lost is not None or not (self._running or self._ready):
                return None
            wait = self._seconds_for_prompts()
            if wait > 0:
                return wait
            new, self._ready = fitting(self._ready, self._running.values(), self._memory)
        try:
            for sequence in new:
                self._take_in(sequence)
            if self._running:
                self._step()
        except Exception as wrong:
            log.exception("the engine failed")
            self._give_up(wrong)
            return None
        return 0.0 if self._running or self._ready else None

    def _take_in(self, sequence: Sequence) -> None:
        if sequence.is_cancelled:
            self._end(sequence, Ending("cancelled", 0, 0))  # nothing of it was computed
            return
        try:
            self._admit(sequence)
        except MaasError as wrong:
            self._end(sequence, wrong)
            return
        self._running[sequence.number] = sequence

    def _has_prompts(self) -> bool:
        """Whether a step need not wait for any more of them."""
        read = sum(sequence.prompt_tokens for sequence in self._ready)
        return not self._reading or self._is_closed or read >= self._batch_tokens

    def _seconds_for_prompts(self) -> float:
        """How long the next step is to wait for prompts that are being read."""
        if self._has_prompts():
            self._waits_since = 0.0
            return 0.0
        now = time.monotonic()
        self._waits_since = self._waits_since or now
        left = self._waits_since + READING_SECONDS - now
        if left <= 0:
            self._waits_since = 0.0
        return max(0.0, left)

    def _tell(self, sequence: Sequence, reason: str | None, *, is_due: bool) -> str | None:
        """After a step in which the sequence `wrote`, or not: tells it, unless that can wait.
        Returns why it ended, `reason` or a stop text; None: it goes on."""
        can_wait = reason is None and sequence.has_spoken and not is_due
        if can_wait and not sequence.generation.stop:
            return None
        sequence.read()
        if sequence.stop and reason in (None, "length"):
            reason = "stop"
        elif can_wait:
            return None
        sequence.sink(sequence.number, sequence.told(is_last=reason is not None))
        return reason

    def _leave(self, sequence: Sequence, said: Ending | MaasError) -> None:
        del self._running[sequence.number]
        self._end(sequence, said)

    def _give_up(self, wrong: Exception) -> None:
        """An engine that failed once in a step is of no known state: whoever waits is told, and
        the replica ends, so that another takes its place."""
        lost = InferenceFailed(f"the engine failed: {str(wrong)[-300:]}")
        with self._wake:
            self._lost = lost  # who is read from here on is told there
            waiting = [one for one in list(self._sequences.values()) if one.is_read]
        try:
            for sequence in waiting:
                self._end(sequence, lost)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    def _end(self, sequence: Sequence, said: Ending | MaasError) -> None:
        del self._sequences[sequence.number]
        if sequence.completion_tokens and not sequence.is_over:
            sequence.sink(sequence.number, sequence.rest())
        sequence.sink(sequence.number, said)
