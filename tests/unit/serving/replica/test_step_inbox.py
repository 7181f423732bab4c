"""What an engine says comes to the loop once per step, from a thread of its own or in the loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import uvloop

from maas.domain.generation import Piece
from maas.runtimes.base import EngineEvent, StepFunction
from maas.serving.replica.step_inbox import StepInbox
from tests.support.fakes.generations import Scripted


class Threaded(Scripted):
    """An engine of three sequences that steps itself."""

    def __init__(self) -> None:
        super().__init__()
        self.after_step: Callable[[], None] = lambda: None

    def on_step(self, callback: Callable[[], None]) -> None:
        self.after_step = callback


class Heard:
    """An inbox, and what came of it in each turn of the loop."""

    def __init__(self, engine: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.engine = engine
        self.taken: list[list[int]] = []
        self.inbox = StepInbox(self.loop, engine, lambda: 3, self.take)

    def take(self, said: deque[tuple[int, EngineEvent]]) -> None:
        if said:
            self.taken.append([key for key, _ in said])
        said.clear()

    async def step(self, *keys: int) -> None:
        def work() -> None:
            for key in keys:
                self.inbox.put(key, Piece("a"))
            self.engine.after_step()

        await asyncio.to_thread(work)
        await asyncio.sleep(0)


def test_a_step_in_which_not_all_say_something_is_heard_at_its_end() -> None:
    async def main() -> None:
        heard = Heard(Threaded())
        await heard.step(1, 2)
        assert heard.taken == [[1, 2]]
        await heard.step(3)
        assert heard.taken == [[1, 2], [3]]

    uvloop.run(main())


def test_an_engine_does_not_wait_for_a_loop_that_is_stuck() -> None:
    async def main() -> None:
        heard = Heard(Threaded())
        engine = threading.Thread(target=heard.engine.after_step)
        heard.inbox.put(1, Piece("a"))
        engine.start()
        engine.join()  # in the loop, which meanwhile hears nothing
        assert heard.taken == []
        await asyncio.sleep(0.01)
        assert heard.taken == [[1]]

    uvloop.run(main())


class Turned(Scripted):
    """An engine that takes its turns where it is told, each of which says one thing."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []
        """What the next turns answer."""
        self.threads: set[int] = set()
        self.turns = 0
        self.emit: Callable[[int, EngineEvent], None] = lambda _, __: None

    def step_in_caller(self, has_work: Callable[[], None]) -> StepFunction:
        self.has_work = has_work
        return self.turn

    def turn(self) -> float | None:
        self.threads.add(threading.get_ident())
        self.turns += 1
        self.emit(self.turns, Piece("a"))
        return self.waits.pop(0)


def test_an_engine_that_holds_the_interpreter_works_in_the_loop_while_there_is_work() -> None:
    async def main() -> None:
        engine = Turned()
        heard = Heard(engine)
        engine.emit = heard.inbox.put
        engine.waits = [0.0, 0.0, 0.001, None]
        assert engine.turns == 0
        await asyncio.to_thread(engine.has_work)
        for _ in range(100):
            await asyncio.sleep(0.001)
            if not engine.waits:
                break
        assert heard.taken == [[1], [2], [3], [4]]
        assert engine.threads == {threading.get_ident()}
        await asyncio.sleep(0.01)
        assert engine.turns == 4
        # Work that is there before a wait is over is not made to wait.
        engine.waits = [60.0, None]
        engine.has_work()
        await asyncio.sleep(0.01)
        engine.has_work()
        await asyncio.sleep(0.01)
        assert heard.taken[4:] == [[5], [6]]

    uvloop.run(main())


def test_the_loop_turns_between_the_turns_of_an_engine() -> None:
    """So that what was written leaves, and who asks in the meantime is heard."""

    async def main() -> None:
        engine = Turned()
        heard = Heard(engine)
        engine.emit = heard.inbox.put
        engine.waits = [0.0] * 5 + [None]
        between: list[int] = []

        def look() -> None:
            between.append(engine.turns)
            if engine.waits:
                heard.loop.call_soon(look)

        engine.has_work()
        await asyncio.sleep(0)
        look()
        while engine.waits:
            await asyncio.sleep(0)
        assert set(range(1, 6)) <= set(between)

    uvloop.run(main())


def test_what_a_turn_of_the_loop_leaves_for_the_next_is_done_before_the_engine_goes_on() -> None:
    """As a request that came in during a step, which is begun a turn after it is read."""

    async def main() -> None:
        engine = Turned()
        heard = Heard(engine)
        begun_after: list[int] = []

        def read(_: int, __: EngineEvent) -> None:
            heard.loop.call_soon(lambda: heard.loop.call_soon(begin))

        def begin() -> None:
            begun_after.append(engine.turns)

        engine.emit = read
        engine.waits = [0.0, 0.0, None]
        engine.has_work()
        await asyncio.sleep(0.02)
        assert begun_after == [1, 2, 3]

    uvloop.run(main())


def test_an_inbox_that_closed_takes_no_turn_and_still_hears() -> None:
    async def main() -> None:
        engine = Turned()
        heard = Heard(engine)
        engine.has_work()
        heard.inbox.close()
        await asyncio.sleep(0.01)
        assert engine.turns == 0
        await asyncio.to_thread(heard.inbox.put, 7, Piece("a"))
        await asyncio.sleep(0.05)
        assert heard.taken == [[7]]

    uvloop.run(main())
