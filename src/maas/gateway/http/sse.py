"""A response of server-sent events, written as they occur and as fast as the client reads.

All events of one tick are sent in one write. A slow client has a bounded backlog and never delays
the producer of events, which only appends to it. Format: WHATWG HTML, "Server-sent events".
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
    # Buffering proxies would delay the events.
    (b"x-accel-buffering", b"no"),
)


def event(data: bytes, name: bytes = b"") -> bytes:
    """The bytes of an event. `data` must be a single line, as JSON is."""
    if name:
        return b"event: %b\ndata: %b\n\n" % (name, data)
    return b"data: %b\n\n" % data


class EventStream:
    """A stream of events whose response begins with the first one.

    An error before that is answered with its own status.
    """

    def __init__(
        self,
        request: Request,
        on_disconnect: Callable[[], None],
        on_overflow: Callable[[], None],
    ) -> None:
        """`on_disconnect` is called if the client disconnects before the end. `on_overflow` is
        called if it reads so slowly that MAX_BACKLOG_BYTES wait for it; after that, only `end` has
        an effect."""
        self._request = request
        self._on_disconnect = on_disconnect
        self._on_overflow = on_overflow
        self._backlog: list[bytes] = []
        self._backlog_bytes = 0
        self._opening: asyncio.Task[None] | None = None
        self._body: AnswerStream | None = None
        """The response's body, after its head is sent and before its end is."""
        self._ended = False
        self._is_full = False
        self._is_due = self._is_behind = False
        """Whether a write is scheduled; whether the client must read before the next one."""

    @property
    def has_begun(self) -> bool:
        return self._opening is not None

    def send(self, events: bytes) -> None:
        if self._ended or self._is_full or not events:
            return
        if self._backlog_bytes + len(events) > MAX_BACKLOG_BYTES:
            self._is_full = True
            self._on_overflow()
            return
        self._append(events)

    def end(self, events: bytes) -> None:
        """Send the last events. Later ones are dropped."""
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
            self._disconnected()
            return
        # `stream` has cleared it.
        self._request.on_disconnect = self._disconnected
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
                    behind.add_done_callback(self._caught_up)
                    return
            if self._ended:
                self._request.on_disconnect = self._body = None
                body.end()
        except Unavailable:
            self._disconnected()

    def _caught_up(self, behind: asyncio.Future[None]) -> None:
        self._is_behind = False
        if behind.exception() is None:  # otherwise `on_disconnect` is called
            self._write()

    def _disconnected(self) -> None:
        self._ended = True
        self._body = None
        self._backlog.clear()
        self._on_disconnect()
