"""What an engine's thread says comes to the loop once per step, and the engine knows when."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque

import uvloop

from maas.domain.generation import Piece
from maas.runtimes.base import Said
from maas.serving.step_inbox import StepInbox


class Heard:
    """An inbox for an engine of three sequences, and what came of it in each turn of the loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.taken: list[list[int]] = []
        self.left = 0
        """How many of `taken` have left, as a channel sends: a turn later."""
        self.left_after_step: list[int] = []
        self.inbox = StepInbox(self.loop, lambda: 3, self.take)

    def take(self, said: deque[tuple[int, Said]]) -> None:
        self.taken.append([key for key, _ in said])
        said.clear()
        self.loop.call_soon(self.leave)

    def leave(self) -> None:
        time.sleep(0.01)  # the engine's thread may go on here, if it does not wait
        self.left = len(self.taken)

    async def step(self, *keys: int) -> None:
        def work() -> None:
            for key in keys:
                self.inbox.put(key, Piece("a"))
            self.inbox.step_ended()
            self.left_after_step.append(self.left)

        await asyncio.to_thread(work)


def test_a_step_in_which_not_all_say_something_is_heard_at_its_end() -> None:
    async def main() -> None:
        heard = Heard()
        await heard.step(1, 2)
        assert heard.taken == [[1, 2]]
        await heard.step(3)
        assert heard.taken == [[1, 2], [3]]

    uvloop.run(main())


def test_an_engine_goes_on_when_what_it_said_has_left() -> None:
    """Not when it is taken: the engine may hold the interpreter's lock for long after that."""

    async def main() -> None:
        heard = Heard()
        for _ in range(5):
            await heard.step(1, 2, 3)
        assert heard.left_after_step == [1, 2, 3, 4, 5]

    uvloop.run(main())


def test_an_engine_does_not_wait_for_a_loop_that_is_stuck() -> None:
    async def main() -> None:
        heard = Heard()
        engine = threading.Thread(target=heard.inbox.step_ended)
        heard.inbox.put(1, Piece("a"))
        engine.start()
        engine.join()  # in the loop, which meanwhile hears nothing
        assert heard.taken == []
        await asyncio.sleep(0.01)
        assert heard.taken == [[1]]

    uvloop.run(main())
