"""Events of an engine reach the loop once per step, from its thread or in the loop."""

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
    """An engine with three sequences and its own thread."""

    def __init__(self) -> None:
        super().__init__()
        self.after_step: Callable[[], None] = lambda: None

    def on_step(self, callback: Callable[[], None]) -> None:
        self.after_step = callback


class RecordingInbox:
    """An inbox, and the events of each time that it is emptied."""

    def __init__(self, engine: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.engine = engine
        self.batches: list[list[int]] = []
        self.inbox = StepInbox(self.loop, engine, lambda: 3, self.handle)

    def handle(self, events: deque[tuple[int, EngineEvent]]) -> None:
        if events:
            self.batches.append([key for key, _ in events])
        events.clear()

    async def step(self, *keys: int) -> None:
        def work() -> None:
            for key in keys:
                self.inbox.put(key, Piece("a"))
            self.engine.after_step()

        await asyncio.to_thread(work)
        await asyncio.sleep(0)


def test_a_partial_step_is_handled_at_its_end() -> None:
    async def main() -> None:
        recorder = RecordingInbox(Threaded())
        await recorder.step(1, 2)
        assert recorder.batches == [[1, 2]]
        await recorder.step(3)
        assert recorder.batches == [[1, 2], [3]]

    uvloop.run(main())


def test_an_engine_does_not_wait_for_a_blocked_loop() -> None:
    async def main() -> None:
        recorder = RecordingInbox(Threaded())
        engine = threading.Thread(target=recorder.engine.after_step)
        recorder.inbox.put(1, Piece("a"))
        engine.start()
        engine.join()  # in the loop, which is blocked meanwhile
        assert recorder.batches == []
        await asyncio.sleep(0.01)
        assert recorder.batches == [[1]]

    uvloop.run(main())


class SteppedInLoop(Scripted):
    """An engine that is stepped by its caller and emits one event per step."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []
        """Return values of the next steps."""
        self.threads: set[int] = set()
        self.steps = 0
        self.emit_to: Callable[[int, EngineEvent], None] = lambda _, __: None

    def step_in_caller(self, has_work: Callable[[], None]) -> StepFunction:
        self.has_work = has_work
        return self.step

    def step(self) -> float | None:
        self.threads.add(threading.get_ident())
        self.steps += 1
        self.emit_to(self.steps, Piece("a"))
        return self.waits.pop(0)


def test_an_engine_without_a_thread_is_stepped_in_the_loop_while_it_has_work() -> None:
    async def main() -> None:
        engine = SteppedInLoop()
        recorder = RecordingInbox(engine)
        engine.emit_to = recorder.inbox.put
        engine.waits = [0.0, 0.0, 0.001, None]
        assert engine.steps == 0
        await asyncio.to_thread(engine.has_work)
        for _ in range(100):
            await asyncio.sleep(0.001)
            if not engine.waits:
                break
        assert recorder.batches == [[1], [2], [3], [4]]
        assert engine.threads == {threading.get_ident()}
        await asyncio.sleep(0.01)
        assert engine.steps == 4
        # Work that arrives during a wait does not wait for its end.
        engine.waits = [60.0, None]
        engine.has_work()
        await asyncio.sleep(0.01)
        engine.has_work()
        await asyncio.sleep(0.01)
        assert recorder.batches[4:] == [[5], [6]]

    uvloop.run(main())


def test_the_loop_iterates_between_two_steps_of_an_engine() -> None:
    """So that output is sent and requests are read."""

    async def main() -> None:
        engine = SteppedInLoop()
        recorder = RecordingInbox(engine)
        engine.emit_to = recorder.inbox.put
        engine.waits = [0.0] * 5 + [None]
        between: list[int] = []

        def look() -> None:
            between.append(engine.steps)
            if engine.waits:
                recorder.loop.call_soon(look)

        engine.has_work()
        await asyncio.sleep(0)
        look()
        while engine.waits:
            await asyncio.sleep(0)
        assert set(range(1, 6)) <= set(between)

    uvloop.run(main())


def test_callbacks_of_callbacks_run_before_the_next_step() -> None:
    """Such as a request that arrives during a step and starts an iteration after it is read."""

    async def main() -> None:
        engine = SteppedInLoop()
        recorder = RecordingInbox(engine)
        begun_after: list[int] = []

        def read(_: int, __: EngineEvent) -> None:
            recorder.loop.call_soon(lambda: recorder.loop.call_soon(begin))

        def begin() -> None:
            begun_after.append(engine.steps)

        engine.emit_to = read
        engine.waits = [0.0, 0.0, None]
        engine.has_work()
        await asyncio.sleep(0.02)
        assert begun_after == [1, 2, 3]

    uvloop.run(main())


def test_a_closed_inbox_makes_no_step_and_still_handles_events() -> None:
    async def main() -> None:
        engine = SteppedInLoop()
        recorder = RecordingInbox(engine)
        engine.has_work()
        recorder.inbox.close()
        await asyncio.sleep(0.01)
        assert engine.steps == 0
        await asyncio.to_thread(recorder.inbox.put, 7, Piece("a"))
        await asyncio.sleep(0.05)
        assert recorder.batches == [[7]]

    uvloop.run(main())
