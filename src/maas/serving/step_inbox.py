"""What an engine's threads say, handed to the event loop step by step.

One wake-up of the loop serves all that was said by then, so that a step goes out in one frame.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable

from maas.runtimes.base import Said

LINGER_SECONDS = 0.02
"""How long what a sequence wrote may wait for the others of its step; when every one has said
something, or the engine says that its step has ended, nothing waits."""
HEARING_SECONDS = 0.05
"""How long an engine waits at most until its step is heard."""


class StepInbox:
    """Between the threads of an engine and the loop of its server."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        running: Callable[[], int],
        take: Callable[[deque[tuple[int, Said]]], None],
    ) -> None:
        """`running` says how many sequences the engine writes; `take` empties what it is given, in
        the loop."""
        self._loop = loop
        self._running = running
        self._take = take
        self._said: deque[tuple[int, Said]] = deque()
        self._is_due = self._is_armed = False
        self._timer: asyncio.TimerHandle | None = None
        self._heard = threading.Event()
        """Set while nothing was said that is not on its way."""
        self._heard.set()
        self._order = threading.Lock()

    def put(self, key: int, said: Said) -> None:
        """Called in any thread."""
        with self._order:
            self._said.append((key, said))
            self._heard.clear()
        if len(self._said) >= self._running():
            self._wake()
        elif not self._is_armed:
            self._is_armed = True
            self._loop.call_soon_threadsafe(self._arm)

    def step_ended(self) -> None:
        """Called in the engine's thread. Returns when the step is heard.

        OpenVINO holds the interpreter's lock while it steps: what is not on its way by then would
        wait for the whole of the next step.
        """
        if self._said:
            self._wake()
        self._heard.wait(HEARING_SECONDS)

    def _wake(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon_threadsafe(self._collect)

    def _arm(self) -> None:
        self._timer = self._loop.call_later(LINGER_SECONDS, self._collect)

    def _collect(self) -> None:
        # First the marks: what is said from here on has the loop woken again.
        self._is_due = self._is_armed = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            self._take(self._said)
        finally:
            self._loop.call_soon(self._hear)

    def _hear(self) -> None:
        """After what was taken has left."""
        with self._order:
            if not self._said:
                self._heard.set()
