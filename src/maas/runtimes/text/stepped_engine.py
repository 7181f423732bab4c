"""Base class of engines that step all their sequences at once.

One thread prepares prompts: it renders and tokenizes them. Another runs the engine's steps, unless
the owner calls `run_step` itself. Each step calls the sink of every sequence once, with an empty
piece if it has no new text, except for text that the engine may defer (`defer_output`).
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from maas.domain.errors import InferenceFailed, InvalidInput, MaasError
from maas.domain.generation import Ending, Generation
from maas.runtimes.base import Sink
from maas.runtimes.text.chat_template import ChatTemplate
from maas.runtimes.text.engine import TextEngine
from maas.runtimes.text.options import Sizes, fitting
from maas.runtimes.text.sequence import Sequence
from maas.runtimes.text.stream_chunks import too_long

log = logging.getLogger(__name__)

PREPARING_SECONDS = 0.01
"""Most time that a step waits for prompts in preparation, so that it has many of them: a step costs
about as much with one prompt as with a full batch. Some engines hold the GIL while they step, so
that no prompt is prepared meanwhile."""


def _nothing() -> None:
    """The callback of an owner that has set none."""


def _always() -> bool:
    """Output is due in every step unless the owner defers it."""
    return True


class SteppedEngine(TextEngine[Sequence]):
    """The life of sequences. A subclass loads a model, calls `_begin`, and overrides the hooks."""

    def __init__(self) -> None:
        super().__init__()
        self._after_step: Callable[[], None] = _nothing
        self._is_output_due: Callable[[], bool] = _always
        self._running: dict[int, Sequence] = {}
        """Sequences in the engine; only the stepping thread uses it."""
        self._memory = 0
        """Tokens of the KV cache, with those for control's probe."""
        self._vocabulary_size = 0
        self._template: ChatTemplate | None = None
        self._preparing = 0
        """Number of sequences whose prompt is not prepared yet."""
        self._waiting_since = 0.0
        """When a step began to wait for prompts; 0 if none does."""
        self._ready: list[Sequence] = []
        """Prepared sequences that the engine does not have yet."""
        self._batch_tokens = 0
        """Prompt tokens per step."""
        self._wake = threading.Condition()
        self._has_work: Callable[[], None] = _nothing
        self._is_stepped_by_owner = self._is_closed = False
        self._failure: InferenceFailed | None = None
        """Why the engine stopped before it was closed."""

    # -- hooks for subclasses ---------------------------------------------------------------

    @abstractmethod
    def _encode(self, text: str, *, is_plain: bool) -> list[int]:
        """Token ids of a text. A plain text gets the model's special tokens around it; a rendered
        template has them already."""

    @abstractmethod
    def _prepare(self, sequence: Sequence) -> None:
        """Prepares the prompt with `_checked` and `_encode_prompt`. Raises MaasError."""

    @abstractmethod
    def _admit(self, sequence: Sequence) -> None:
        """Adds a sequence to the batch. Raises MaasError if the engine refuses it."""

    @abstractmethod
    def _step(self) -> None:
        """Computes a step of all in `_running`, emits their output with `_emit`, and calls
        `_finish` for those that ended."""

    @abstractmethod
    def _unload(self) -> None:
        """Releases the model; no other hook is called afterwards."""

    # -- life ---------------------------------------------------------------------------------

    def _set_sizes(self, sizes: Sizes, batch: int, probe_tokens: int) -> None:
        """`batch`: prompt tokens per step; `probe_tokens`: tokens of the KV cache for control's
        probe, in addition to those for clients."""
        self.context_length, self.slots, self._pool = sizes.context, sizes.slots, sizes.pool
        self._memory = self._pool + probe_tokens
        self._batch_tokens = batch

    def _set_template(self, source: str, special: dict[str, Any]) -> None:
        self.has_chat_template = bool(source)
        if source:
            self._template = ChatTemplate(source, special)

    def _begin(self) -> None:
        """Starts the threads, once the model is loaded."""
        self._preparer = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        self._engine = threading.Thread(target=self._run, name="engine", daemon=True)
        self._engine.start()

    def start(self, number: int, generation: Generation, sink: Sink) -> None:
        sequence = Sequence(number, generation, sink)
        sequence.reserved = self._most_tokens(generation)
        self._sequences[number] = sequence
        with self._wake:
            self._preparing += 1
        self._preparer.submit(self._prepare_or_end, sequence)

    def on_step(self, callback: Callable[[], None]) -> None:
        self._after_step = callback

    def defer_output(self, is_due: Callable[[], bool]) -> bool:
        self._is_output_due = is_due
        return True

    def close(self) -> None:
        self._cancel_all()
        self._preparer.shutdown(wait=True)
        with self._wake:
            self._is_closed = True
            self._wake.notify()
        self._engine.join()
        while self.run_step() is not None:
            pass  # an owner that ran the steps has stopped
        if self._template is not None:
            self._template.close()
        self._unload()

    def _hand_over_steps(self, has_work: Callable[[], None]) -> None:
        """Ends the engine's own thread; from now on the owner calls `run_step`, in one thread,
        after each call of `has_work`, which comes from any thread."""
        self._has_work = has_work
        with self._wake:
            self._is_stepped_by_owner = True
            self._wake.notify()
        self._engine.join()

    # -- prompts, in a thread of their own --------------------------------------------------

    def _prepare_or_end(self, sequence: Sequence) -> None:
        end = self._prepared(sequence)
        with self._wake:
            self._preparing -= 1
            if end is None:
                end = self._failure
            if end is None:
                sequence.is_prepared = True
                self._ready.append(sequence)
            self._wake.notify()
        if end is not None:
            self._end(sequence, end)
        self._has_work()

    def _prepared(self, sequence: Sequence) -> Ending | MaasError | None:
        """The end of a sequence that never reaches the engine; None if it does."""
        try:
            self._prepare(sequence)
        except MaasError as wrong:
            return wrong
        except Exception:
            log.exception("a prompt could not be prepared")
            return InferenceFailed("the engine failed on this request")
        return sequence.ending("length") if sequence.generation.max_tokens == 0 else None

    def _checked(self, sequence: Sequence) -> Generation:
        return self._vocabulary.checked(sequence.generation, self.context_length)

    def _encode_prompt(
        self, sequence: Sequence, generation: Generation, messages: list[dict[str, Any]]
    ) -> list[int]:
        """Token ids of the prompt. Sets the sequence's limit and the memory it needs.

        `messages` are those for the template. Raises InvalidInput, ContextLengthExceeded.
        """
        if isinstance(generation.prompt, list):
            self._check_tokens(generation.prompt, "prompt")
            ids = list(generation.prompt)
        elif generation.prompt is not None:
            ids = self._encode(generation.prompt, is_plain=True)
        else:
            if self._template is None:
                raise InvalidInput("this model has no chat template", field="messages")
            ids = self._encode(self._template.render(messages), is_plain=False)
        if not ids:
            raise InvalidInput("the prompt is empty", field="prompt")
        if len(ids) >= self.context_length:
            raise too_long(len(ids), self.context_length)
        sequence.limit = self.context_length - len(ids)
        if generation.max_tokens is not None:
            sequence.limit = min(sequence.limit, generation.max_tokens)
        sequence.prompt_tokens = len(ids)
        sequence.reserved = len(ids) + sequence.limit
        return ids

    def _check_tokens(self, tokens: Any, field: str) -> None:
        unknown = [token for token in tokens if not 0 <= token < self._vocabulary_size]
        if unknown:
            raise InvalidInput(
                f"{field}: there is no token {unknown[0]}; the model has {self._vocabulary_size}",
                field=field,
            )

    # -- steps ----------------------------------------------------------------------------------

    def _run(self) -> None:
        """The thread that runs the steps unless the owner does."""
        while self._failure is None and self._await_work():
            wait = self.run_step()
            self._after_step()
            if wait:
                with self._wake:
                    self._wake.wait_for(self._has_prompts, wait)

    def _await_work(self) -> bool:
        """Blocks until there is work; False if this thread must end."""
        with self._wake:
            while not (self._running or self._ready):
                if self._is_closed or self._is_stepped_by_owner:
                    return False
                self._wake.wait()
        return True

    def run_step(self) -> float | None:
        """Admits prepared sequences and computes one step.

        Returns the seconds until the next call, 0 for at once, or None if there is no work.
        """
        with self._wake:
            if self._failure is not None or not (self._running or self._ready):
                return None
            wait = self._seconds_for_prompts()
            if wait > 0:
                return wait
            new, self._ready = fitting(self._ready, self._running.values(), self._memory)
        try:
            for sequence in new:
                self._admit_or_end(sequence)
            if self._running:
                self._step()
        except Exception as wrong:
            log.exception("the engine failed")
            self._fail(wrong)
            return None
        return 0.0 if self._running or self._ready else None

    def _admit_or_end(self, sequence: Sequence) -> None:
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
        """Whether a step need not wait for more prompts."""
        count = sum(sequence.prompt_tokens for sequence in self._ready)
        return not self._preparing or self._is_closed or count >= self._batch_tokens

    def _seconds_for_prompts(self) -> float:
        """Seconds that the next step waits for prompts in preparation."""
        if self._has_prompts():
            self._waiting_since = 0.0
            return 0.0
        now = time.monotonic()
        self._waiting_since = self._waiting_since or now
        left = self._waiting_since + PREPARING_SECONDS - now
        if left <= 0:
            self._waiting_since = 0.0
        return max(0.0, left)

    def _emit(self, sequence: Sequence, reason: str | None, *, is_due: bool) -> str | None:
        """Emits the output of a sequence after a step, unless it can wait.

        Returns why the sequence ended: `reason`, or `stop` for a stop sequence; None if it goes on.
        """
        can_wait = reason is None and sequence.has_output and not is_due
        if can_wait and not sequence.generation.stop:
            return None
        sequence.decode()
        if sequence.stop and reason in (None, "length"):
            reason = "stop"
        elif can_wait:
            return None
        sequence.sink(sequence.number, sequence.next_piece(is_last=reason is not None))
        return reason

    def _finish(self, sequence: Sequence, end: Ending | MaasError) -> None:
        """Takes a sequence out of `_running` and reports its end."""
        del self._running[sequence.number]
        self._end(sequence, end)

    def _fail(self, wrong: Exception) -> None:
        """Fails all sequences and ends the replica, so that another replaces it: the state of an
        engine after a failed step is unknown."""
        failure = InferenceFailed(f"the engine failed: {str(wrong)[-300:]}")
        with self._wake:
            self._failure = failure  # ends the sequences that are being prepared
            prepared = [one for one in list(self._sequences.values()) if one.is_prepared]
        try:
            for sequence in prepared:
                self._end(sequence, failure)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    def _end(self, sequence: Sequence, end: Ending | MaasError) -> None:
        del self._sequences[sequence.number]
        if sequence.completion_tokens and not sequence.is_complete:
            sequence.sink(sequence.number, sequence.last_piece())
        sequence.sink(sequence.number, end)
