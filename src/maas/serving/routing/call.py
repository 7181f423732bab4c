"""A request that is on its way to a replica, from the gateway's side."""

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
"""Replicas that one call is sent to at most."""
FAIR_ROWS = 64
"""Rows after which a replica serves other calls before it continues with a long one."""


class CallCarrier(Protocol):
    """A holder of calls that were sent: the link to a replica."""

    def cancel(self, call: Call) -> None:
        """Forget `call`. If it still waits in the replica, it is never computed."""

    def stop(self, call: Call) -> bool:
        """Ask the replica to end a generation early; its ending follows.

        Returns False if the call was not sent yet. It is then discarded and has no ending.
        """


class Call:
    """One request to a replica: its inputs and the callbacks for its outcome.

    Subclasses implement `answered` and `failed`. Exactly one of them is called, once, except that
    `failed` follows an `answered` that raised.
    """

    __slots__ = (
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
        "travels_alone",
    )

    def __init__(
        self,
        columns: Sequence[Buffer],
        shapes: Shapes,
        rows: int,
        deadline: float,
        tenant: int = 0,
        priority: Priority = Priority.NORMAL,
    ) -> None:
        """`columns` and `shapes` (of one row) follow the inputs of the signature. `deadline` is in
        seconds on the monotonic clock. Calls with different `tenant` numbers share a replica
        fairly."""
        self.columns = columns
        self.shapes = shapes
        self.rows = rows
        self.load = min(rows, FAIR_ROWS)
        """Rows of this call that other calls wait for at most."""
        self.deadline = deadline
        self.tenant = tenant
        self.priority = priority
        self.travels_alone = False
        """Whether the call needs a frame of its own. A call with BYTES does: its rows have no
        common size by which the replica could tell them from another call's."""
        self.size = len(columns[0]) if len(columns) == 1 else sum(map(len, columns))
        """Bytes of all columns."""
        self.attempts = 0
        self.link: CallCarrier | None = None
        """The link that holds the call, or None."""
        self.number = 0
        """The call's id on that link; 0 until it is sent."""

    is_pinned: ClassVar[bool] = False
    """Whether the request names a version, so that no other version may answer."""
    is_generation: ClassVar[bool] = False
    """Whether the call travels in a frame of its own, made by `pack`, and is answered in steps."""

    def answered(self, answers: Answers, at: int, first_row: int) -> None:
        """Handle the answer: request number `at` of `answers`, with rows from `first_row`."""
        raise NotImplementedError

    def failed(self, error: MaasError) -> None:
        """Handle a failure; no answer follows."""
        raise NotImplementedError

    def computed(self, compute_us: int, prompt_tokens: int = 0, completion_tokens: int = 0) -> None:
        """Account for work of the model on a call without an answer.

        The model has worked for `compute_us` more microseconds and processed and generated the
        given numbers of tokens. The call is unfinished, or was canceled.
        """

    def pack(self) -> list[Buffer]:
        """The frame of a generation, in parts."""
        raise NotImplementedError

    def stepped(self, piece: Piece, ending: Ending | None) -> None:
        """Handle a step of a generation. The last step has the ending."""
        raise NotImplementedError

    # -- calls without an answer ------------------------------------------------------------

    @property
    def may_be_repeated(self) -> bool:
        """Whether another replica may answer if the one that holds the call crashes."""
        return self.attempts < MAX_ATTEMPTS

    def expire(self, link: CallCarrier, now: float) -> None:
        """End the call because its deadline has passed while `link` holds it."""
        link.cancel(self)
        fail_call(self, DeadlineExceeded())

    def abandon(self, error: MaasError) -> None:
        """End the call, which will have no answer because of `error`."""
        self.failed(error)


def fail_call(call: Call, error: MaasError) -> None:
    """Abandon `call` with `error`.

    Exceptions of its callback are logged and dropped: other calls share the link and the tick.
    """
    try:
        call.abandon(error)
    except Exception:
        log.exception("the failure of a call could not be reported: %s", error)
