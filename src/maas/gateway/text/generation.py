"""Requests for generated text, in any protocol: lifecycle, cancellation and token counts.

A request may ask for several choices; each is a generation of its own. The engine counts the
tokens. They are metered when each generation has ended, even if the client disconnected before.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Protocol

from maas.domain.errors import MaasError, Unauthenticated, Unavailable
from maas.domain.generation import Ending, Generation, Piece
from maas.domain.keys import Key
from maas.domain.models import Task
from maas.gateway.calls import CallContext, deadline_of, key_of, tenant_of
from maas.gateway.http.request import Request
from maas.gateway.metering import GenerationUsage
from maas.gateway.text.task_service import TaskService
from maas.serving.routing.generation_call import GenerationCall
from maas.serving.routing.live_target import LiveTarget

CANCELLED = "cancelled"


class AnswerWriter(Protocol):
    """Writes generated text to one client in the client's protocol.

    Nothing is called after `end` or `fail`, or after the client has disconnected.
    """

    def write(self, choice: int, piece: Piece) -> None: ...
    def end_choice(self, choice: int, ending: Ending) -> None: ...
    def end(self) -> None: ...
    def fail(self, error: MaasError) -> None: ...


class TextService(TaskService):
    """State that all handlers of text generation share: deployments, the meter, active requests."""

    def __init__(self, context: CallContext) -> None:
        super().__init__(context)
        self.active: set[TextRequest] = set()

    def begin(self, request: Request, deployment: str, operation: str) -> TextRequest:
        """Raises ModelNotFound, Unavailable, or BadRequest for an invalid deadline."""
        target = self.target(deployment, Task.TEXT_GENERATION)
        return TextRequest(self, request, target, operation)

    def stop_all(self) -> None:
        """Fail all active requests because the server is stopping."""
        for text_request in list(self.active):
            text_request.fail(Unavailable("the server is stopping", retry_after=1.0))

    def stop_revoked(self, is_known: Callable[[Key], bool]) -> None:
        """Fail the active requests whose key is unknown now."""
        for text_request in list(self.active):
            if not is_known(text_request.key):
                text_request.fail(Unauthenticated("this key was revoked"))

    async def settle(self, seconds: float) -> None:
        """Wait, at most `seconds`, until stopped requests have been metered."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.active:
                    await asyncio.sleep(0.01)


class TextRequest:
    """The generations of one request."""

    def __init__(
        self, service: TextService, request: Request, target: LiveTarget, operation: str
    ) -> None:
        """`operation` is the name under which usage is recorded.

        Raises BadRequest for an invalid deadline.
        """
        self.request = request
        self.target = target
        self.key = key_of(request)
        self.usage = GenerationUsage(0)
        self.counts_tokens = True
        """False if the request only asks for the number of tokens."""
        self._service = service
        self._operation = operation
        self._deadline = deadline_of(request, service.context.timeout_s)
        self._writer: AnswerWriter | None = None
        self._open: set[_Choice] = set()
        self._is_over = False
        """Whether the client has its answer; the engine may still owe its counts."""
        self._error: MaasError | None = None
        self._is_disconnected = False
        self._prompt_tokens: dict[int, int] = {}

    def start(
        self, writer: AnswerWriter, generations: list[Generation], choices_per_prompt: int
    ) -> None:
        """Start `generations` and pass their output to `writer`.

        The first `choices_per_prompt` generations are choices for one prompt, the next for the
        next prompt, and so on. Raises nothing: errors are passed to `writer`.
        """
        self._writer = writer
        self.usage.choices = len(generations)
        tenant = tenant_of(self.key)
        choices = [
            _Choice(self, index, index // choices_per_prompt, generation, self._deadline, tenant)
            for index, generation in enumerate(generations)
        ]
        self._open.update(choices)
        self._service.active.add(self)
        self.request.on_disconnect = self.disconnect
        for index, choice in enumerate(choices):
            if self._is_over:
                self._open.discard(choice)
                continue
            try:
                self.target.generate(choice)
            except MaasError as error:
                self._open.difference_update(choices[index:])
                self.fail(error)
        self._meter_if_ended()

    def disconnect(self) -> None:
        """Stop the generations because the client has disconnected."""
        if not self._is_over:
            self._is_disconnected = True
            self._stop()

    def fail(self, error: MaasError) -> None:
        """Stop the generations and answer with `error`, unless the request is over."""
        if not self._is_over:
            self._error = error
            self._is_over = True
            if self._writer is not None:
                self._writer.fail(error)
            self._stop()

    def _stop(self) -> None:
        self._is_over = True
        for choice in list(self._open):
            self.target.cancel_generation(choice)

    # -- called by the generations ----------------------------------------------------------

    def write(self, choice: int, piece: Piece) -> None:
        if not self._is_over and self._writer is not None:
            self._writer.write(choice, piece)

    def end_choice(self, choice: _Choice, ending: Ending) -> None:
        self._open.discard(choice)
        self._add_usage(choice, ending)
        if not self._is_over and ending.reason == CANCELLED:
            self.fail(Unavailable("the server cancelled this generation", retry_after=1.0))
        if not self._is_over and self._writer is not None:
            self._writer.end_choice(choice.index, ending)
            if not self._open:
                self._is_over = True
                self._writer.end()
        self._meter_if_ended()

    def fail_choice(self, choice: _Choice, error: MaasError) -> None:
        self._open.discard(choice)
        if choice.usage is not None:
            self._add_usage(choice, choice.usage)
        self.fail(error)
        self._meter_if_ended()

    def _add_usage(self, choice: _Choice, ending: Ending) -> None:
        usage = self.usage
        usage.completion_tokens += ending.completion_tokens
        usage.compute_us += ending.compute_us
        # The choices of a prompt share it; a choice that never ran reports 0 prompt tokens.
        counted = self._prompt_tokens.get(choice.prompt, 0)
        if ending.prompt_tokens > counted:
            self._prompt_tokens[choice.prompt] = ending.prompt_tokens
            usage.prompt_tokens += ending.prompt_tokens - counted
            if not counted:
                usage.cached_tokens += ending.cached_tokens
        if not choice.first_at:
            return
        usage.first.append(choice.first_at - self.request.received)
        if ending.completion_tokens > 1:
            duration = time.monotonic() - choice.first_at
            usage.per_token.append(duration / (ending.completion_tokens - 1))

    def _meter_if_ended(self) -> None:
        if self._open or self not in self._service.active:
            return
        self._service.active.discard(self)
        meter, usage = self._service.meter, self.usage
        if not self.counts_tokens:
            usage = GenerationUsage(usage.choices, compute_us=usage.compute_us)
        if self._error is None and not self._is_disconnected:
            meter.generated(self.key, self._operation, self.target, self.request.received, usage)
        else:
            meter.stopped(self.key, self._operation, self.target, usage, self._error)


class _Choice(GenerationCall):
    """One generation of a request."""

    def __init__(
        self,
        text_request: TextRequest,
        index: int,
        prompt: int,
        generation: Generation,
        deadline: float,
        tenant: int,
    ) -> None:
        super().__init__(generation, deadline, tenant)
        self.index = index
        self.prompt = prompt
        """Index of its prompt in the request."""
        self.first_at = 0.0
        """Time of the first output on the monotonic clock; 0 before it."""
        self._text_request = text_request

    def generated(self, piece: Piece) -> None:
        if not self.first_at:
            self.first_at = time.monotonic()
        self._text_request.write(self.index, piece)

    def ended(self, ending: Ending) -> None:
        self._text_request.end_choice(self, ending)

    def failed(self, error: MaasError) -> None:
        self._text_request.fail_choice(self, error)
