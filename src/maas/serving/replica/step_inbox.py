"""What an engine says, handed to the event loop step by step.

One wake-up of the loop serves all that was said by then, so that sequences share a frame.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from maas.runtimes.base import EngineEvent, Generator

LINGER_SECONDS = 0.02
"""How long what a sequence wrote may wait for the others of its step; when every one has said
something, or the engine says that its step has ended, nothing waits."""


class StepInbox:
    """Between an engine and the loop of its server. An engine that cannot work beside the loop
    works in it: a turn of the engine, and what came of it, is then one turn of the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        engine: Generator,
        running: Callable[[], int],
        take: Callable[[deque[tuple[int, EngineEvent]]], None],
    ) -> None:
        """`running` says how many sequences the engine writes; `take` empties what it is given, in
        the loop."""
        self._loop = loop
        self._running = running
        self._take = take
        self._said: deque[tuple[int, EngineEvent]] = deque()
        self._is_due = self._is_armed = False
        self._timer: asyncio.TimerHandle | None = None
        self._turn = engine.step_in_caller(self._has_work)
        self._next_turn: asyncio.Handle | None = None
        if self._turn is None:
            engine.on_step(self._step_ended)

    def put(self, key: int, said: EngineEvent) -> None:
        """Called in any thread."""
        self._said.append((key, said))
        if self._turn is not None:
            return  # it is collected when the engine's turn is over
        if len(self._said) >= self._running():
            self._wake()
        elif not self._is_armed:
            self._is_armed = True
            self._loop.call_soon_threadsafe(self._arm)

    def close(self) -> None:
        """The engine takes no turns in this loop any more."""
        if self._next_turn is not None:
            self._next_turn.cancel()
        self._turn = None

    # -- an engine with a thread of its own --------------------------------------------------

    def _step_ended(self) -> None:
        """Called in the engine's thread."""
        if self._said:
            self._wake()

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
        self._take(self._said)

    # -- an engine that works in the loop ----------------------------------------------------

    def _has_work(self) -> None:
        """Called in any thread."""
        self._loop.call_soon_threadsafe(self._turn_soon)

    def _turn_soon(self) -> None:
        if self._next_turn is not None:
            self._next_turn.cancel()
        self._next_turn = self._loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._next_turn = None
        wait = None if self._turn is None else self._turn()
        try:
            self._take(self._said)
        finally:
            if wait is not None and self._next_turn is None:
                # The loop turns twice between: what was said leaves and what came is read, and
                # what is due for that, such as beginning it, is done.
                self._next_turn = self._loop.call_later(wait, self._turn_soon)
