"""A text generation from the gateway's side: text that arrives in pieces, and an ending."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from maas.domain.errors import DeadlineExceeded, MaasError
from maas.domain.generation import Ending, Generation, Piece
from maas.serving.routing.call import Call, CallCarrier, fail_call
from maas.serving.wire.generation_frames import encode_generation, has_content, pack_encoded
from maas.serving.wire.messages import Buffer, Priority

USAGE_GRACE_SECONDS = 2.0
"""How long after its deadline a generation waits for the replica to report its usage."""


class GenerationCall(Call):
    """One sequence to generate.

    Subclasses implement `generated`, `ended` and `failed`, all called in the loop's thread.
    Exactly one of `ended` and `failed` is called, once and last, except that `failed` follows a
    callback that raised.
    """

    __slots__ = ("_is_late", "_is_over", "_is_stopped", "completion_tokens", "has_output", "usage")

    is_generation: ClassVar[bool] = True

    def __init__(
        self,
        generation: Generation,
        deadline: float,
        tenant: int = 0,
        priority: Priority = Priority.NORMAL,
    ) -> None:
        """`deadline` is in seconds on the monotonic clock. Generations with different `tenant`
        numbers share the engine fairly."""
        encoded = encode_generation(generation)
        super().__init__([encoded], (), 1, deadline, tenant, priority)
        self.travels_alone = True
        self.has_output = False
        """Whether the client received any output, after which no other replica may start over."""
        self.completion_tokens = 0
        """Generated tokens reported so far."""
        self.usage: Ending | None = None
        """The engine's final token counts, once reported; also for a call that missed its deadline.
        If the engine is lost, the counts up to then."""
        self._is_stopped = False
        self._is_late = False
        self._is_over = False

    # -- for subclasses ---------------------------------------------------------------------

    def generated(self, piece: Piece) -> None:
        """Handle new output; called at most once per step of the engine."""
        raise NotImplementedError

    def ended(self, ending: Ending) -> None:
        """Handle the end: the sequence is complete or was canceled."""
        raise NotImplementedError

    # -- for links and targets --------------------------------------------------------------

    def pack(self) -> list[Buffer]:
        return pack_encoded(self.number, self.deadline, self.tenant, self.priority, self.columns[0])

    def stepped(self, piece: Piece, ending: Ending | None) -> None:
        self.completion_tokens += piece.tokens
        if not self._is_stopped and not self._is_late and has_content(piece):
            self.has_output = True
            self.generated(piece)
        if ending is not None:
            self._is_over = True
            self.usage = ending
            if self._is_late and not self._is_stopped:
                self.failed(DeadlineExceeded())
            else:
                self.ended(ending)

    def stop(self) -> bool:
        """Ask the replica to end the generation early; False if the call waits in its target."""
        if self._is_stopped or self._is_over:
            return True
        self._is_stopped = True
        if self.link is not None and self.link.stop(self):
            return True
        asyncio.get_running_loop().call_soon(fail_call, self, MaasError("it was cancelled"))
        return False

    @property
    def may_be_repeated(self) -> bool:
        return super().may_be_repeated and not self.has_output and not self._is_stopped

    def expire(self, link: CallCarrier, now: float) -> None:
        if not self._is_late:
            self._is_late = True
            link.stop(self)
        elif now > self.deadline + USAGE_GRACE_SECONDS:
            super().expire(link, now)

    def abandon(self, error: MaasError) -> None:
        self._is_over = True
        if self.usage is None and self.completion_tokens:
            # The replica reports no usage anymore. The client has these tokens and is charged.
            self.usage = Ending("cancelled", 0, self.completion_tokens)
        if self._is_stopped:
            self.ended(self.usage or Ending("cancelled", 0, 0))
        else:
            self.failed(DeadlineExceeded() if self._is_late else error)
