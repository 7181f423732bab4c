"""Requests for text, from any protocol: who may write it, what became of it, what it took.

A request may ask for several choices; each is a generation of its own. Tokens are counted by the
engine and metered here when it has ended each of them, also for a client that left long before.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Protocol

from maas.domain.errors import MaasError, ModelNotFound, NotFound, Unauthenticated, Unavailable
from maas.domain.generation import Ending, Generation, Piece
from maas.domain.keys import Key
from maas.domain.models import Task
from maas.gateway.calls import deadline_of, key_of, tenant_of
from maas.gateway.http.request import Request
from maas.gateway.metering import GenerationUsage, Meter
from maas.serving.routing.generation_call import GenerationCall
from maas.serving.routing.live_target import LiveTarget
from maas.serving.routing.router import LiveDeployment, Router

CANCELLED = "cancelled"


class AnswerWriter(Protocol):
    """Tells one caller, in the caller's protocol, what is written. After `done` or `failed`, or
    once the caller has left, nothing more is told."""

    def wrote(self, choice: int, piece: Piece) -> None: ...
    def ended(self, choice: int, ending: Ending) -> None: ...
    def done(self) -> None: ...
    def failed(self, error: MaasError) -> None: ...


class TextService:
    """What all doors for text share: deployments, the meter, and who is being answered."""

    def __init__(self, router: Router, meter: Meter, longest_s: float) -> None:
        """`longest_s`: seconds that a request may take, unless its caller asks for less."""
        self.router = router
        self.meter = meter
        self.longest_s = longest_s
        self.active: set[TextRequest] = set()

    def target(self, name: str) -> LiveTarget:
        """A target of the deployment `name`, which must write text; raises ModelNotFound, or
        Unavailable if nobody can answer for it."""
        try:
            deployment = self.router.get(name)
        except NotFound as error:
            raise ModelNotFound(error.message, field="model") from None
        check_task(deployment, Task.TEXT_GENERATION)
        return deployment.pick()

    def refused(self, request: Request, operation: str, name: str, error: MaasError) -> None:
        """Count and answer what was refused before a generation of it began."""
        deployment = self.router.deployments.get(name)
        if deployment is not None:
            target = deployment.targets[0] if len(deployment.targets) == 1 else None
            self.meter.failed(request.key, operation, name, target, error)
        request.fail(error)

    def stop_all(self) -> None:
        """The server stops: whoever is still being answered hears of it."""
        for writing in list(self.active):
            writing.fail(Unavailable("the server is stopping", retry_after=1.0))

    def stop_of(self, is_known: Callable[[Key], bool]) -> None:
        """End what was begun with a key that is not known any more."""
        for writing in list(self.active):
            if not is_known(writing.key):
                writing.fail(Unauthenticated("this key was revoked"))

    async def settle(self, seconds: float) -> None:
        """Wait until what was stopped is counted; at most `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.active:
                    await asyncio.sleep(0.01)


def check_task(deployment: LiveDeployment, wanted: Task) -> None:
    """Raises ModelNotFound, which says what the deployment is for instead."""
    other = next((r.task for r in deployment.targets if r.task != wanted), None)
    if other is not None:
        raise ModelNotFound(
            f"{deployment.name} is for {other}, not for {wanted}; "
            f"call it with POST /predict/{deployment.name}",
            field="model",
        )


class TextRequest:
    """The generations of one request."""

    def __init__(
        self, desk: TextService, request: Request, target: LiveTarget, operation: str
    ) -> None:
        """`operation` is what usage is recorded under. Raises BadRequest for a deadline that is
        none."""
        self.request = request
        self.target = target
        self._desk = desk
        self.key = key_of(request)
        self._operation = operation
        self._deadline = deadline_of(request, desk.longest_s)
        self._teller: AnswerWriter | None = None
        self._open: set[_Choice] = set()
        self._is_over = False
        """For the caller; the engine may still owe its counts."""
        self._error: MaasError | None = None
        self._has_left = False
        self._prompt_tokens: dict[int, int] = {}
        self.written = GenerationUsage(0)
        self.counts_tokens = True
        """False if the request only asks how many there are."""

    def start(self, teller: AnswerWriter, generations: list[Generation], per_prompt: int) -> None:
        """Write, and tell `teller`. The first `per_prompt` generations are choices for one prompt,
        and so on. From here on the request will be answered; nothing is raised."""
        self._teller = teller
        self.written.choices = len(generations)
        tenant = tenant_of(self.key)
        choices = [
            _Choice(self, number, number // per_prompt, generation, self._deadline, tenant)
            for number, generation in enumerate(generations)
        ]
        self._open.update(choices)
        self._desk.active.add(self)
        self.request.on_disconnect = self.leave
        for number, choice in enumerate(choices):
            if self._is_over:
                self._open.discard(choice)
                continue
            try:
                self.target.generate(choice)
            except MaasError as error:
                self._open.difference_update(choices[number:])
                self.fail(error)
        self._count_if_ended()

    def leave(self) -> None:
        """The client is gone: nothing more is written for it."""
        if not self._is_over:
            self._has_left = True
            self._stop()

    def fail(self, error: MaasError) -> None:
        if not self._is_over:
            self._error = error
            self._is_over = True
            if self._teller is not None:
                self._teller.failed(error)
            self._stop()

    def _stop(self) -> None:
        self._is_over = True
        for choice in list(self._open):
            self.target.cancel_generation(choice)

    # -- what the engine says ---------------------------------------------------------------

    def wrote(self, choice: int, piece: Piece) -> None:
        if not self._is_over and self._teller is not None:
            self._teller.wrote(choice, piece)

    def ended(self, choice: _Choice, ending: Ending) -> None:
        self._open.discard(choice)
        self._add_up(choice, ending)
        if not self._is_over and ending.reason == CANCELLED:
            self.fail(Unavailable("the server gave this generation up", retry_after=1.0))
        if not self._is_over and self._teller is not None:
            self._teller.ended(choice.place, ending)
            if not self._open:
                self._is_over = True
                self._teller.done()
        self._count_if_ended()

    def lost(self, choice: _Choice, error: MaasError) -> None:
        self._open.discard(choice)
        if choice.used is not None:
            self._add_up(choice, choice.used)
        self.fail(error)
        self._count_if_ended()

    def _add_up(self, choice: _Choice, ending: Ending) -> None:
        written = self.written
        written.completion_tokens += ending.completion_tokens
        written.compute_us += ending.compute_us
        # Several choices share their prompt; one that never ran knows nothing of it.
        known = self._prompt_tokens.get(choice.prompt, 0)
        if ending.prompt_tokens > known:
            self._prompt_tokens[choice.prompt] = ending.prompt_tokens
            written.prompt_tokens += ending.prompt_tokens - known
            written.cached_tokens += ending.cached_tokens if not known else 0
        if choice.first_at:
            written.first.append(choice.first_at - self.request.received)
        if choice.first_at and ending.completion_tokens > 1:
            taken = time.monotonic() - choice.first_at
            written.per_token.append(taken / (ending.completion_tokens - 1))

    def _count_if_ended(self) -> None:
        if self._open or self not in self._desk.active:
            return
        self._desk.active.discard(self)
        meter, written = self._desk.meter, self.written
        if not self.counts_tokens:
            written = GenerationUsage(written.choices, compute_us=written.compute_us)
        if self._error is None and not self._has_left:
            meter.wrote(self.key, self._operation, self.target, self.request.received, written)
        else:
            meter.stopped_writing(self.key, self._operation, self.target, written, self._error)


class _Choice(GenerationCall):
    """One generation of a request."""

    def __init__(
        self,
        writing: TextRequest,
        number: int,
        prompt: int,
        generation: Generation,
        deadline: float,
        tenant: int,
    ) -> None:
        super().__init__(generation, deadline, tenant)
        self.writing = writing
        self.place = number
        self.prompt = prompt
        """The number of its prompt in the request."""
        self.first_at = 0.0
        """Monotonic clock; 0 until something was written."""

    def wrote(self, piece: Piece) -> None:
        if not self.first_at:
            self.first_at = time.monotonic()
        self.writing.wrote(self.place, piece)

    def ended(self, ending: Ending) -> None:
        self.writing.ended(self, ending)

    def failed(self, error: MaasError) -> None:
        self.writing.lost(self, error)
