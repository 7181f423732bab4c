"""Passes the events of an engine to the event loop, step by step.

One wake-up of the loop handles all events up to then, so that sequences share a frame.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from maas.runtimes.base import EngineEvent, Generator

LINGER_SECONDS = 0.02
"""Longest time that an event waits for those of other sequences. It ends early when every running
sequence has an event, or when the engine reports the end of a step."""


class StepInbox:
    """Collects the events of an engine for the event loop of its server.

    An engine without a thread of its own is stepped in the loop: a step and its events are handled
    in one iteration.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        engine: Generator,
        running: Callable[[], int],
        handle: Callable[[deque[tuple[int, EngineEvent]]], None],
    ) -> None:
        """`running` returns the number of sequences in the engine. `handle` is called in the loop
        with the events and their sequences' keys, and empties the deque."""
        self._loop = loop
        self._running = running
        self._handle = handle
        self._events: deque[tuple[int, EngineEvent]] = deque()
        self._is_due = self._is_armed = False
        self._timer: asyncio.TimerHandle | None = None
        self._step = engine.step_in_caller(self._has_work)
        self._next_step: asyncio.Handle | None = None
        if self._step is None:
            engine.on_step(self._step_ended)

    def put(self, key: int, event: EngineEvent) -> None:
        """Add an event of sequence `key`; called in any thread."""
        self._events.append((key, event))
        if self._step is not None:
            return  # events are handled after the step
        if len(self._events) >= self._running():
            self._wake()
        elif not self._is_armed:
            self._is_armed = True
            self._loop.call_soon_threadsafe(self._arm)

    def close(self) -> None:
        """Stop stepping the engine."""
        if self._next_step is not None:
            self._next_step.cancel()
        self._step = None

    # -- an engine with a thread of its own --------------------------------------------------

    def _step_ended(self) -> None:
        """Called in the engine's thread."""
        if self._events:
            self._wake()

    def _wake(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon_threadsafe(self._collect)

    def _arm(self) -> None:
        self._timer = self._loop.call_later(LINGER_SECONDS, self._collect)

    def _collect(self) -> None:
        # The flags are cleared first: an event from here on wakes the loop again.
        self._is_due = self._is_armed = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._handle(self._events)

    # -- an engine that is stepped in the loop -----------------------------------------------

    def _has_work(self) -> None:
        """Called in any thread."""
        self._loop.call_soon_threadsafe(self._step_soon)

    def _step_soon(self) -> None:
        if self._next_step is not None:
            self._next_step.cancel()
        self._next_step = self._loop.call_soon(self._run_step)

    def _run_step(self) -> None:
        self._next_step = None
        wait = None if self._step is None else self._step()
        try:
            self._handle(self._events)
        finally:
            if wait is not None and self._next_step is None:
                # The loop runs two iterations before the next step: frames are written and read,
                # and callbacks that these cause, such as starting a sequence, are run.
                self._next_step = self._loop.call_later(wait, self._step_soon)
