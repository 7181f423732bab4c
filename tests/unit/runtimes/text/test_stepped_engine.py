"""The life of sequences in an engine that is stepped, by its own thread or by its owner.

The engine here writes a token per step and sequence, and can be made to wait or to fail.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from maas.domain.errors import InferenceFailed, InvalidInput, MaasError
from maas.domain.generation import Ending, Generation, Piece
from maas.runtimes.base import EngineEvent, LoadRequest, StepFunction
from maas.runtimes.text.detokenizer import ByteDetokenizer, SequenceText
from maas.runtimes.text.options import Sizes
from maas.runtimes.text.stepped_engine import Sequence, SteppedEngine


class Counting(SteppedEngine):
    """A prompt of n tokens is read in no time, unless `reads` is not set."""

    def __init__(self, batch: int = 64) -> None:
        super().__init__()
        self._known_tokens = 100
        self._set_sizes(Sizes(64, 4, 256), batch, 16)
        self.reads = threading.Event()
        self.reads.set()
        self.steps: list[list[int]] = []
        self.threads: set[int] = set()
        self.fails_at = -1
        self.unloaded = 0
        self._begin()

    def load(self, request: LoadRequest) -> None:
        raise NotImplementedError

    def _encoded(self, text: str, *, is_plain: bool) -> list[int]:
        raise NotImplementedError

    def _prepare(self, sequence: Sequence) -> None:
        assert self.reads.wait(10)
        self._take_prompt(sequence, sequence.generation, [])
        sequence.text = SequenceText(ByteDetokenizer({1: b"x"}), sequence.generation.stop)

    def _admit(self, sequence: Sequence) -> None:
        if sequence.generation.prompt == [13]:
            raise InvalidInput("an unlucky prompt")

    def _step(self) -> None:
        self.threads.add(threading.get_ident())
        self.steps.append(sorted(self._running))
        if len(self.steps) == self.fails_at:
            raise RuntimeError("the library broke")
        time.sleep(0.001)
        for sequence in list(self._running.values()):
            sequence.completion_tokens += 1
            sequence.wrote([1], [])
            if sequence.is_cancelled:
                self._leave(sequence, sequence.ending("cancelled"))
                continue
            reason = "length" if sequence.completion_tokens >= sequence.limit else None
            reason = self._tell(sequence, reason, is_due=self._is_output_due())
            if reason is not None:
                self._leave(sequence, sequence.ending(reason))

    def _unload(self) -> None:
        self.unloaded += 1

    def step_in_caller(self, has_work: Callable[[], None]) -> StepFunction:
        self._hand_over(has_work)
        return self.turn


class Told:
    """What the sinks of an engine were told."""

    def __init__(self) -> None:
        self.said: dict[int, list[EngineEvent]] = {}
        self._changed = threading.Condition()

    def __call__(self, number: int, said: EngineEvent) -> None:
        with self._changed:
            self.said.setdefault(number, []).append(said)
            self._changed.notify_all()

    def ending(self, number: int) -> EngineEvent:
        """The one thing that is no piece, which is the last."""
        with self._changed:
            assert self._changed.wait_for(lambda: number in self.endings, 10), self.said
        assert not isinstance(self.said[number][-1], Piece)
        return self.endings[number][0]

    @property
    def endings(self) -> dict[int, list[EngineEvent]]:
        found: dict[int, list[EngineEvent]] = {
            n: [s for s in said if not isinstance(s, Piece)] for n, said in self.said.items()
        }
        assert all(len(ends) <= 1 for ends in found.values()), "told twice how it ended"
        return {n: ends for n, ends in found.items() if ends}


@pytest.fixture
def engine() -> Iterator[Counting]:
    made = Counting()
    yield made
    made.reads.set()
    if not made.unloaded:
        made.close()


def prompt(tokens: int = 3, wanted: int = 4) -> Generation:
    return Generation(prompt=[1] * tokens, max_tokens=wanted)


class Owner:
    """Takes an engine's turns as a loop would: after each word that there is work."""

    def __init__(self, engine: Counting) -> None:
        self._work = threading.Semaphore(0)
        self.turn = engine.step_in_caller(self._work.release)
        self.waits: list[float] = []
        self._wait: float | None = None

    def until(self, holds: Callable[[], Any]) -> None:
        ends = time.monotonic() + 10
        while not holds():
            assert time.monotonic() < ends
            if self._wait is None:
                assert self._work.acquire(timeout=10)
            elif self._wait:
                self.waits.append(self._wait)
                self._work.acquire(timeout=self._wait)
            self._wait = self.turn()


def test_an_engine_turns_itself_until_its_owner_does(engine: Counting) -> None:
    told = Told()
    engine.start(1, prompt(), told)
    assert told.ending(1) == Ending("length", 3, 4)
    own = engine._engine
    assert engine.threads == {own.ident}
    owner = Owner(engine)
    assert not own.is_alive()
    engine.start(2, prompt(wanted=2), told)
    owner.until(lambda: 2 in told.endings)
    assert told.ending(2) == Ending("length", 3, 2)
    assert engine.threads == {own.ident, threading.get_ident()}
    assert owner.turn() is None


def told_tokens(told: Told, number: int) -> list[int]:
    return [said.tokens for said in told.said[number] if isinstance(said, Piece)]


def test_what_need_not_be_told_yet_is_kept_until_the_end_or_until_it_is_time(
    engine: Counting,
) -> None:
    told = Told()
    engine.defer_output(lambda: False)
    engine.start(1, prompt(wanted=6), told)
    assert told.ending(1) == Ending("length", 3, 6)
    assert told_tokens(told, 1) == [1, 5]
    # Every token is looked at where a stop text may end it, and told with the others.
    engine.start(2, Generation(prompt=[1], max_tokens=6, stop=["y"]), told)
    assert told.ending(2) == Ending("length", 1, 6)
    assert told_tokens(told, 2) == [1, 5]
    engine.start(3, Generation(prompt=[1], max_tokens=6, stop=["xxx"]), told)
    assert told.ending(3) == Ending("stop", 1, 3, stop="xxx")
    times = iter([False, False, True, False, False, False])
    engine.defer_output(lambda: next(times))
    engine.start(4, prompt(wanted=6), told)
    assert told.ending(4) == Ending("length", 3, 6)
    assert told_tokens(told, 4) == [1, 2, 3]


def test_what_was_kept_of_who_is_cancelled_is_told(engine: Counting) -> None:
    told = Told()
    engine.defer_output(lambda: False)
    engine.start(1, prompt(wanted=50), told)
    while len(engine.steps) < 5:
        time.sleep(0.001)
    engine.cancel(1)
    ending = told.ending(1)
    assert isinstance(ending, Ending) and ending.reason == "cancelled"
    assert sum(told_tokens(told, 1)) == ending.completion_tokens >= 5


def test_what_was_kept_is_told_before_a_failure(
    engine: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "kill", lambda *_: None)
    told = Told()
    engine.defer_output(lambda: False)
    engine.fails_at = 4
    engine.start(1, prompt(wanted=9), told)
    assert isinstance(told.ending(1), InferenceFailed)
    assert told_tokens(told, 1) == [1, 2]


def test_text_that_cannot_be_read_keeps_nobody_from_learning_of_a_failure(
    engine: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _, number: killed.append(number))
    told = Told()
    engine.defer_output(lambda: False)
    engine.fails_at = 4
    engine.reads.clear()
    for number in (1, 2):
        engine.start(number, prompt(wanted=9), told)
    engine.reads.set()
    while len(engine.steps) < 1:
        time.sleep(0.001)
    monkeypatch.setattr(SequenceText, "rest", lambda _: 1 / 0)
    for number in (1, 2):
        assert isinstance(told.ending(number), InferenceFailed)
        assert sum(told_tokens(told, number)) == 3
    assert killed == [signal.SIGTERM]


def test_a_prompt_that_was_read_before_is_handed_over(engine: Counting) -> None:
    """Its word that there is work came before anybody listened."""
    engine.reads.clear()
    told = Told()
    engine.start(1, prompt(), told)
    owner = Owner(engine)
    engine.reads.set()
    owner.until(lambda: 1 in told.endings)
    assert told.ending(1) == Ending("length", 3, 4)


def test_a_step_waits_for_prompts_that_are_being_read_and_not_for_ever(engine: Counting) -> None:
    owner, told = Owner(engine), Told()
    engine.start(1, prompt(wanted=30), told)
    owner.until(lambda: told.said.get(1))
    engine.reads.clear()
    engine.start(2, prompt(), told)
    steps = len(engine.steps)
    owner.until(lambda: len(engine.steps) > steps + 1)  # 1 gets on, though 2 is still read
    assert owner.waits and all(0 < wait < 0.011 for wait in owner.waits)
    engine.reads.set()
    owner.until(lambda: len(told.endings) == 2)
    assert [1, 2] in engine.steps


def test_who_is_refused_or_cancelled_holds_nobody_up(engine: Counting) -> None:
    owner, told = Owner(engine), Told()
    engine.start(1, Generation(prompt=[13], max_tokens=2), told)
    engine.start(2, Generation(prompt=[99999], max_tokens=2), told)
    engine.start(3, prompt(wanted=50), told)
    engine.start(4, prompt(), told)
    owner.until(lambda: told.said.get(3) and 4 in told.endings)
    engine.cancel(3)
    owner.until(lambda: 3 in told.endings)
    assert isinstance(told.ending(1), InvalidInput) and isinstance(told.ending(2), InvalidInput)
    cancelled = told.ending(3)
    assert isinstance(cancelled, Ending) and cancelled.reason == "cancelled"
    assert engine._reserved() == 0 and owner.turn() is None


@pytest.mark.parametrize("is_turned", [False, True])
def test_a_step_that_fails_is_told_to_all_and_ends_the_process(
    engine: Counting, is_turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *said: killed.append(said))
    told = Told()
    owner = Owner(engine) if is_turned else None
    engine.fails_at = 3
    for number in (1, 2):
        engine.start(number, prompt(wanted=50), told)
    if owner is not None:
        owner.until(lambda: len(told.endings) == 2)
        assert owner.turn() is None
    for number in (1, 2):
        assert isinstance(told.ending(number), InferenceFailed)
    engine.start(3, prompt(), told)  # it may be on its way already
    assert isinstance(told.ending(3), InferenceFailed)
    assert killed == [(os.getpid(), signal.SIGTERM)] and len(engine.steps) == 3


@pytest.mark.parametrize("is_turned", [False, True])
def test_closing_ends_who_runs_and_who_is_being_read(engine: Counting, is_turned: bool) -> None:
    told = Told()
    owner = Owner(engine) if is_turned else None
    engine.start(1, prompt(wanted=60), told)
    if owner is not None:
        owner.until(lambda: told.said.get(1))
    engine.reads.clear()
    engine.start(2, prompt(), told)
    closing = threading.Thread(target=engine.close)
    closing.start()
    engine.reads.set()
    closing.join(10)
    assert not closing.is_alive() and engine.unloaded == 1
    for number in (1, 2):
        ending = told.ending(number)
        assert isinstance(ending, Ending | MaasError)
    assert engine._reserved() == 0
