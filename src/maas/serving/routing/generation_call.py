"""The caller's end of a generation: text that comes in pieces, and how it ends."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from maas.domain.errors import DeadlineExceeded, MaasError
from maas.domain.generation import Ending, Generation, Piece
from maas.serving.routing.call import Call, CallCarrier, fail_call
from maas.serving.wire.generation_frames import encode_generation, pack_encoded
from maas.serving.wire.messages import Buffer, Priority

GRACE_SECONDS = 2.0
"""How long after its deadline a generation waits for the replica's account of what it took."""


class GenerationCall(Call):
    """One sequence to be written.

    Subclasses implement `wrote`, `ended` and `failed`, all called in the loop's thread. Exactly
    one of `ended` and `failed` is called, once, last; except that `failed` follows one that
    raised.
    """

    __slots__ = ("_is_late", "_is_over", "_is_stopped", "completion_tokens", "has_written", "used")

    is_generation: ClassVar[bool] = True

    def __init__(
        self,
        generation: Generation,
        deadline: float,
        tenant: int = 0,
        priority: Priority = Priority.NORMAL,
    ) -> None:
        """`deadline` is in seconds on the monotonic clock. `tenant`: who shares the engine fairly
        with others."""
        encoded = encode_generation(generation)
        super().__init__([encoded], (), 1, deadline, tenant, priority, alone=True)
        self.has_written = False
        """Whether the caller was told any of it; then no other replica may begin again."""
        self.completion_tokens = 0
        """As far as the engine has said."""
        self.used: Ending | None = None
        """The engine's account, once it is there: also of one that fails by its deadline. If the
        engine is lost, what it had told."""
        self._is_stopped = False
        self._is_late = False
        self._is_over = False

    # -- for subclasses ---------------------------------------------------------------------

    def wrote(self, piece: Piece) -> None:
        """The engine got on; at most once per step of it."""
        raise NotImplementedError

    def ended(self, ending: Ending) -> None:
        """All was written, or it was cancelled."""
        raise NotImplementedError

    # -- for links and targets ---------------------------------------------------------------

    def packed(self) -> list[Buffer]:
        return pack_encoded(self.number, self.deadline, self.tenant, self.priority, self.columns[0])

    def stepped(self, piece: Piece, ending: Ending | None) -> None:
        self.completion_tokens += piece.tokens
        if not self._is_stopped and not self._is_late and _says_something(piece):
            self.has_written = True
            self.wrote(piece)
        if ending is not None:
            self._is_over = True
            self.used = ending
            if self._is_late and not self._is_stopped:
                self.failed(DeadlineExceeded())
            else:
                self.ended(ending)

    def stop(self) -> bool:
        """Ask whoever has it to end it early; False if it waits in a target."""
        if self._is_stopped or self._is_over:
            return True
        self._is_stopped = True
        if self.link is not None and self.link.stop(self):
            return True
        asyncio.get_running_loop().call_soon(fail_call, self, MaasError("it was cancelled"))
        return False

    @property
    def may_be_repeated(self) -> bool:
        return super().may_be_repeated and not self.has_written and not self._is_stopped

    def expire(self, link: CallCarrier, now: float) -> None:
        if not self._is_late:
            self._is_late = True
            link.stop(self)
        elif now > self.deadline + GRACE_SECONDS:
            super().expire(link, now)

    def give_up(self, error: MaasError) -> None:
        self._is_over = True
        if self.used is None and self.completion_tokens:
            # No account will come; what was written was computed, and the caller has it.
            self.used = Ending("cancelled", 0, self.completion_tokens)
        if self._is_stopped:
            self.ended(self.used or Ending("cancelled", 0, 0))
        else:
            self.failed(DeadlineExceeded() if self._is_late else error)


def _says_something(piece: Piece) -> bool:
    return bool(piece.text or piece.tokens or piece.logprobs or piece.tool_calls)
