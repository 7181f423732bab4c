"""An answer as server-sent events: written as they come, at the pace of whoever reads.

All events of one tick leave in one write. A reader that is slow has a bounded backlog; it never
slows whoever writes the events, because writing them only appends here.
Format: WHATWG HTML, "Server-sent events".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from maas.domain.errors import Unavailable
from maas.gateway.http.request import AnswerStream, Request

MAX_BACKLOG_BYTES = 256 << 10
EVENTS = b"text/event-stream; charset=utf-8"
_HEADERS = (
    (b"cache-control", b"no-cache"),
    # Proxies that collect answers would hold the words back.
    (b"x-accel-buffering", b"no"),
)


def event(data: bytes, name: bytes = b"") -> bytes:
    """`data` must be of one line, as JSON is."""
    if name:
        return b"event: %b\ndata: %b\n\n" % (name, data)
    return b"data: %b\n\n" % data


class EventStream:
    """Begins its answer with the first events, so that what fails before them has its status."""

    def __init__(
        self, request: Request, gone: Callable[[], None], fell_behind: Callable[[], None]
    ) -> None:
        """`gone`: the client left before the end. `fell_behind`: it reads so slowly that
        MAX_BACKLOG_BYTES wait for it; only an `end` is taken after that."""
        self._request = request
        self._gone = gone
        self._fell_behind = fell_behind
        self._backlog: list[bytes] = []
        self._backlog_bytes = 0
        self._opening: asyncio.Task[None] | None = None
        self._body: AnswerStream | None = None
        """Once the head is sent, until the end is."""
        self._ended = False
        self._is_full = False
        self._is_due = self._is_behind = False
        """Whether a write is about to be; whether the client has to take one first."""

    @property
    def has_begun(self) -> bool:
        return self._opening is not None

    def send(self, events: bytes) -> None:
        if self._ended or self._is_full or not events:
            return
        if self._backlog_bytes + len(events) > MAX_BACKLOG_BYTES:
            self._is_full = True
            self._fell_behind()
            return
        self._append(events)

    def end(self, events: bytes) -> None:
        """The last events; what comes later is dropped."""
        if not self._ended:
            self._ended = True
            self._append(events)

    def _append(self, events: bytes) -> None:
        self._backlog.append(events)
        self._backlog_bytes += len(events)
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
        elif not self._is_due and self._body is not None:
            self._is_due = True
            self._request.connection.server.loop.call_soon(self._write)

    async def _open(self) -> None:
        try:
            self._body = await self._request.stream(200, EVENTS, _HEADERS, None)
        except Unavailable:
            self._left()
            return
        # From here on the request itself has no more use for it.
        self._request.on_disconnect = self._left
        self._write()

    def _write(self) -> None:
        self._is_due = False
        body = self._body
        if body is None or self._is_behind:
            return
        try:
            if self._backlog:
                events, self._backlog = b"".join(self._backlog), []
                self._backlog_bytes = 0
                behind = body.put(events)
                if behind is not None:
                    self._is_behind = True
                    behind.add_done_callback(self._taken)
                    return
            if self._ended:
                self._request.on_disconnect = self._body = None
                body.end()
        except Unavailable:
            self._left()

    def _taken(self, behind: asyncio.Future[None]) -> None:
        self._is_behind = False
        if behind.exception() is None:  # else the connection is gone, and tells us so itself
            self._write()

    def _left(self) -> None:
        """Nobody reads any more."""
        self._ended = True
        self._body = None
        self._backlog.clear()
        self._gone()
