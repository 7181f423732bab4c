"""A request on its way to a replica, as its caller sees it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import ClassVar, Protocol

from maas.domain.errors import DeadlineExceeded, MaasError
from maas.domain.generation import Ending, Piece
from maas.serving.wire.messages import Answers, Buffer, Priority

log = logging.getLogger(__name__)

Shapes = tuple[tuple[int, ...], ...]

MAX_ATTEMPTS = 2
FAIR_ROWS = 64
"""A replica works through more rows of one call in parts, and through others' calls in between."""


class CallCarrier(Protocol):
    """Whoever has calls: the link to a replica."""

    def cancel(self, call: Call) -> None:
        """Forget `call`; if it still waits in the replica it is never computed."""

    def stop(self, call: Call) -> bool:
        """Have the replica end a generation early; its ending is still to come. False if it has
        not left yet: then it never will."""


class Call:
    """One request on its way: what it carries, and who is told how it ended.

    Subclasses implement `answered` and `failed`; exactly one of them is called, once, except that
    `failed` follows an `answered` that raised.
    """

    __slots__ = (
        "alone",
        "attempts",
        "columns",
        "deadline",
        "link",
        "load",
        "number",
        "priority",
        "rows",
        "shapes",
        "size",
        "tenant",
    )

    def __init__(
        self,
        columns: Sequence[Buffer],
        shapes: Shapes,
        rows: int,
        deadline: float,
        tenant: int = 0,
        priority: Priority = Priority.NORMAL,
        alone: bool = False,
    ) -> None:
        """`columns` and `shapes` (per row) follow the inputs of the signature; `deadline` is in
        seconds on the monotonic clock. A call with BYTES travels `alone`: its rows have no common
        size by which the other end could tell them from another call's."""
        self.columns = columns
        self.shapes = shapes
        self.rows = rows
        self.load = min(rows, FAIR_ROWS)
        """The rows that others wait for at most before it is their turn."""
        self.deadline = deadline
        self.tenant = tenant
        self.priority = priority
        self.alone = alone
        self.size = len(columns[0]) if len(columns) == 1 else sum(map(len, columns))
        """Bytes of all columns."""
        self.attempts = 0
        self.link: CallCarrier | None = None
        """Who has it; None while nobody does."""
        self.number = 0
        """Its id on that link; 0 until it is sent."""

    is_pinned: ClassVar[bool] = False
    """Whether it asked for a version, and no other may answer it."""
    is_generation: ClassVar[bool] = False
    """Whether it travels in a frame of its own, made by `packed`, and is answered in steps."""

    def answered(self, answers: Answers, at: int, first_row: int) -> None:
        """Request number `at` of `answers`, whose rows start at `first_row`, is this one."""
        raise NotImplementedError

    def failed(self, error: MaasError) -> None:
        raise NotImplementedError

    def computed(self, compute_us: int, prompt_tokens: int = 0, completion_tokens: int = 0) -> None:
        """The model has worked on it for so many microseconds more, and read and written so many
        tokens; it is not done yet, or never will be, because it was given up."""

    def packed(self) -> list[Buffer]:
        """The frame of a generation."""
        raise NotImplementedError

    def stepped(self, piece: Piece, ending: Ending | None) -> None:
        """A step of a generation; the last one has the ending."""
        raise NotImplementedError

    # -- how it ends when nobody answers --------------------------------------------------

    @property
    def may_be_repeated(self) -> bool:
        """Whether another replica may answer it if the one that has it dies."""
        return self.attempts < MAX_ATTEMPTS

    def expire(self, link: CallCarrier, now: float) -> None:
        """Its deadline has passed while `link` had it."""
        link.cancel(self)
        fail_call(self, DeadlineExceeded())

    def give_up(self, error: MaasError) -> None:
        """It will not be answered, because of `error`."""
        self.failed(error)


def fail_call(call: Call, error: MaasError) -> None:
    """What goes wrong in telling is that call's alone: others share the link and the tick."""
    try:
        call.give_up(error)
    except Exception:
        log.exception("a call could not be told that it failed: %s", error)
