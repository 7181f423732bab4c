"""Tells producers of streamed answers when the write buffer of a connection is full."""

from __future__ import annotations

import asyncio


class WriteControl:
    """Whether a connection may be written to.

    `writable` is None while the write buffer has room, else a future that is done when it has.
    """

    __slots__ = ("_loop", "writable")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.writable: asyncio.Future[None] | None = None

    def pause(self) -> None:
        self.writable = self._loop.create_future()

    def resume(self) -> None:
        writable, self.writable = self.writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def fail(self, error: Exception) -> None:
        """Raise `error` in producers that wait: the connection is lost."""
        if self.writable is not None and not self.writable.done():
            self.writable.set_exception(error)
            self.writable.exception()  # asyncio logs exceptions that are never retrieved
