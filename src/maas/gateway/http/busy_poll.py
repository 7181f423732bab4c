"""Whether to sleep or to look for the next request.

A process that sleeps until the next request pays for it: on a virtual machine the core halts, the
hypervisor gives it and its caches to others, and the same work takes several times as long
afterwards. So while callers come back at once, the gateway looks for the next request for a moment
before it sleeps, as network drivers do (NAPI, `SO_BUSY_POLL`). It does not while a replica of its
deployments owes it an answer, when the core is better used by the model, and it gives way whenever
anybody else can run.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from time import monotonic

_SHARE = 0.125
"""How much the latest pause weighs among those before it."""


class BusyPoll:
    """Looks for requests for `longest` seconds after an answer, if that is what callers take."""

    __slots__ = ("_answered", "_is_first", "_is_looking", "_is_scheduled", "_is_working",
                 "_longest", "_loop", "_pause")  # fmt: skip

    def __init__(
        self, loop: asyncio.AbstractEventLoop, longest: float, is_working: Callable[[], bool]
    ) -> None:
        """`is_working`: whether a replica owes an answer. With `longest` 0 it never looks."""
        self._loop = loop
        self._longest = longest
        self._is_working = is_working
        self._answered = 0.0
        self._pause = 2 * longest
        """Moving average of the time from an answer to the next request; what is longer than
        twice the longest counts as that."""
        self._is_looking = self._is_first = self._is_scheduled = False

    def request_began(self, now: float) -> None:
        """A request begins."""
        self._is_looking = False
        pause = min(now - self._answered, 2 * self._longest)
        self._pause += _SHARE * (pause - self._pause)

    def answered(self, now: float) -> None:
        """An answer leaves."""
        self._answered = now
        if self._pause < self._longest:
            self._is_looking = self._is_first = True
            if not self._is_scheduled:
                self._schedule()

    def _schedule(self) -> None:
        self._is_scheduled = True
        self._loop.call_soon(self._look)

    def _look(self) -> None:
        """Once per turn of the loop, which looks at its sockets without sleeping meanwhile."""
        self._is_scheduled = False
        if self._is_looking and self._is_first:
            # Only requests give replicas work, and those are seen.
            self._is_first = False
            self._is_looking = not self._is_working()
        if self._is_looking and monotonic() - self._answered <= self._longest:
            os.sched_yield()
            self._schedule()
        else:
            self._is_looking = False
