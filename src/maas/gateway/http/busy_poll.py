"""Polls for the next request for a moment instead of sleeping.

Sleeping until the next request is expensive: on a virtual machine the core halts, the hypervisor
gives it and its caches to others, and the same work takes several times as long afterwards. While
clients send their next request soon after an answer, the gateway polls before it sleeps, as network
drivers do (NAPI, `SO_BUSY_POLL`). It does not poll while a replica computes, because the model
makes better use of the core, and it yields to every other process that can run.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from time import monotonic

_SHARE = 0.125
"""Weight of the latest pause in the moving average."""


class BusyPoll:
    """Polls for up to `longest_s` seconds after an answer, if requests usually come sooner."""

    __slots__ = ("_answered", "_is_first", "_is_polling", "_is_scheduled", "_is_working",
                 "_longest_s", "_loop", "_pause")  # fmt: skip

    def __init__(
        self, loop: asyncio.AbstractEventLoop, longest_s: float, is_working: Callable[[], bool]
    ) -> None:
        """`is_working` returns whether a replica has an unanswered call. 0 for `longest_s` turns
        polling off."""
        self._loop = loop
        self._longest_s = longest_s
        self._is_working = is_working
        self._answered = 0.0
        self._pause = 2 * longest_s
        """Moving average of the time from an answer to the next request, in seconds; each value is
        capped at twice `longest_s`."""
        self._is_polling = self._is_first = self._is_scheduled = False

    def request_began(self, now: float) -> None:
        """Note the start of a request, in seconds on the monotonic clock."""
        self._is_polling = False
        pause = min(now - self._answered, 2 * self._longest_s)
        self._pause += _SHARE * (pause - self._pause)

    def answered(self, now: float) -> None:
        """Note an answer, in seconds on the monotonic clock, and poll if that pays off."""
        self._answered = now
        if self._pause < self._longest_s:
            self._is_polling = self._is_first = True
            if not self._is_scheduled:
                self._schedule()

    def _schedule(self) -> None:
        self._is_scheduled = True
        self._loop.call_soon(self._poll)

    def _poll(self) -> None:
        """Run in each iteration of the loop, which checks its sockets without sleeping."""
        self._is_scheduled = False
        if self._is_polling and self._is_first:
            # Checked once: replicas get work only from requests, which end the polling.
            self._is_first = False
            self._is_polling = not self._is_working()
        if self._is_polling and monotonic() - self._answered <= self._longest_s:
            os.sched_yield()
            self._schedule()
        else:
            self._is_polling = False
