"""Sequences in an engine that its own thread or its owner steps.

The engine of these tests generates one token per step and sequence, and can wait or fail.
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
from maas.runtimes.text.sequence import Sequence
from maas.runtimes.text.stepped_engine import SteppedEngine


class OneTokenEngine(SteppedEngine):
    """Prepares prompts at once, unless `may_prepare` is cleared."""

    def __init__(self, batch: int = 64) -> None:
        super().__init__()
        self._vocabulary_size = 100
        self._set_sizes(Sizes(64, 4, 256), batch, 16)
        self.may_prepare = threading.Event()
        self.may_prepare.set()
        self.steps: list[list[int]] = []
        self.threads: set[int] = set()
        self.fails_at = -1
        self.unloaded = 0
        self._begin()

    def load(self, request: LoadRequest) -> None:
        raise NotImplementedError

    def _encode(self, text: str, *, is_plain: bool) -> list[int]:
        raise NotImplementedError

    def _prepare(self, sequence: Sequence) -> None:
        assert self.may_prepare.wait(10)
        self._encode_prompt(sequence, sequence.generation, [])
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
            sequence.add([1], [])
            if sequence.is_cancelled:
                self._finish(sequence, sequence.ending("cancelled"))
                continue
            reason = "length" if sequence.completion_tokens >= sequence.limit else None
            reason = self._emit(sequence, reason, is_due=self._is_output_due())
            if reason is not None:
                self._finish(sequence, sequence.ending(reason))

    def _unload(self) -> None:
        self.unloaded += 1

    def step_in_caller(self, has_work: Callable[[], None]) -> StepFunction:
        self._hand_over_steps(has_work)
        return self.run_step


class EventLog:
    """A sink that records the events of all sequences."""

    def __init__(self) -> None:
        self.events: dict[int, list[EngineEvent]] = {}
        self._changed = threading.Condition()

    def __call__(self, number: int, event: EngineEvent) -> None:
        with self._changed:
            self.events.setdefault(number, []).append(event)
            self._changed.notify_all()

    def ending(self, number: int) -> EngineEvent:
        """Waits for the only event that is not a piece, which is the last one."""
        with self._changed:
            assert self._changed.wait_for(lambda: number in self.endings, 10), self.events
        assert not isinstance(self.events[number][-1], Piece)
        return self.endings[number][0]

    @property
    def endings(self) -> dict[int, list[EngineEvent]]:
        endings: dict[int, list[EngineEvent]] = {}
        for number, events in self.events.items():
            ends: list[EngineEvent] = [event for event in events if not isinstance(event, Piece)]
            assert len(ends) <= 1, "a sequence ended twice"
            if ends:
                endings[number] = ends
        return endings


@pytest.fixture
def engine() -> Iterator[OneTokenEngine]:
    engine = OneTokenEngine()
    yield engine
    engine.may_prepare.set()
    if not engine.unloaded:
        engine.close()


def prompt(tokens: int = 3, max_tokens: int = 4) -> Generation:
    return Generation(prompt=[1] * tokens, max_tokens=max_tokens)


class Owner:
    """Runs an engine's steps as an event loop would: after each notification of work."""

    def __init__(self, engine: OneTokenEngine) -> None:
        self._work = threading.Semaphore(0)
        self.run_step = engine.step_in_caller(self._work.release)
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
            self._wait = self.run_step()


def test_an_engine_steps_itself_until_its_owner_does(engine: OneTokenEngine) -> None:
    log = EventLog()
    engine.start(1, prompt(), log)
    assert log.ending(1) == Ending("length", 3, 4)
    own = engine._engine
    assert engine.threads == {own.ident}
    owner = Owner(engine)
    assert not own.is_alive()
    engine.start(2, prompt(max_tokens=2), log)
    owner.until(lambda: 2 in log.endings)
    assert log.ending(2) == Ending("length", 3, 2)
    assert engine.threads == {own.ident, threading.get_ident()}
    assert owner.run_step() is None


def piece_tokens(log: EventLog, number: int) -> list[int]:
    return [event.tokens for event in log.events[number] if isinstance(event, Piece)]


def test_output_is_deferred_until_it_is_due_or_the_sequence_ends(engine: OneTokenEngine) -> None:
    log = EventLog()
    engine.defer_output(lambda: False)
    engine.start(1, prompt(max_tokens=6), log)
    assert log.ending(1) == Ending("length", 3, 6)
    assert piece_tokens(log, 1) == [1, 5]
    # With stop sequences every token is decoded, but emitted with the others.
    engine.start(2, Generation(prompt=[1], max_tokens=6, stop=["y"]), log)
    assert log.ending(2) == Ending("length", 1, 6)
    assert piece_tokens(log, 2) == [1, 5]
    engine.start(3, Generation(prompt=[1], max_tokens=6, stop=["xxx"]), log)
    assert log.ending(3) == Ending("stop", 1, 3, stop="xxx")
    times = iter([False, False, True, False, False, False])
    engine.defer_output(lambda: next(times))
    engine.start(4, prompt(max_tokens=6), log)
    assert log.ending(4) == Ending("length", 3, 6)
    assert piece_tokens(log, 4) == [1, 2, 3]


def test_deferred_output_of_a_cancelled_sequence_is_emitted(engine: OneTokenEngine) -> None:
    log = EventLog()
    engine.defer_output(lambda: False)
    engine.start(1, prompt(max_tokens=50), log)
    while len(engine.steps) < 5:
        time.sleep(0.001)
    engine.cancel(1)
    ending = log.ending(1)
    assert isinstance(ending, Ending) and ending.reason == "cancelled"
    assert sum(piece_tokens(log, 1)) == ending.completion_tokens >= 5


def test_deferred_output_is_emitted_before_a_failure(
    engine: OneTokenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "kill", lambda *_: None)
    log = EventLog()
    engine.defer_output(lambda: False)
    engine.fails_at = 4
    engine.start(1, prompt(max_tokens=9), log)
    assert isinstance(log.ending(1), InferenceFailed)
    assert piece_tokens(log, 1) == [1, 2]


def test_a_decoding_error_does_not_hide_a_failure_from_other_sequences(
    engine: OneTokenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _, number: killed.append(number))
    log = EventLog()
    engine.defer_output(lambda: False)
    engine.fails_at = 4
    engine.may_prepare.clear()
    for number in (1, 2):
        engine.start(number, prompt(max_tokens=9), log)
    engine.may_prepare.set()
    while len(engine.steps) < 1:
        time.sleep(0.001)
    monkeypatch.setattr(SequenceText, "rest", lambda _: 1 / 0)
    for number in (1, 2):
        assert isinstance(log.ending(number), InferenceFailed)
        assert sum(piece_tokens(log, number)) == 3
    assert killed == [signal.SIGTERM]


def test_a_prompt_that_is_prepared_before_the_owner_steps_is_not_lost(
    engine: OneTokenEngine,
) -> None:
    """Its notification of work came before the owner had a callback."""
    engine.may_prepare.clear()
    log = EventLog()
    engine.start(1, prompt(), log)
    owner = Owner(engine)
    engine.may_prepare.set()
    owner.until(lambda: 1 in log.endings)
    assert log.ending(1) == Ending("length", 3, 4)


def test_a_step_waits_for_prompts_in_preparation_but_not_for_ever(engine: OneTokenEngine) -> None:
    owner, log = Owner(engine), EventLog()
    engine.start(1, prompt(max_tokens=30), log)
    owner.until(lambda: log.events.get(1))
    engine.may_prepare.clear()
    engine.start(2, prompt(), log)
    steps = len(engine.steps)
    owner.until(lambda: len(engine.steps) > steps + 1)  # 1 continues although 2 is not prepared
    assert owner.waits and all(0 < wait < 0.011 for wait in owner.waits)
    engine.may_prepare.set()
    owner.until(lambda: len(log.endings) == 2)
    assert [1, 2] in engine.steps


def test_refused_and_cancelled_sequences_do_not_delay_others(engine: OneTokenEngine) -> None:
    owner, log = Owner(engine), EventLog()
    engine.start(1, Generation(prompt=[13], max_tokens=2), log)
    engine.start(2, Generation(prompt=[99999], max_tokens=2), log)
    engine.start(3, prompt(max_tokens=50), log)
    engine.start(4, prompt(), log)
    owner.until(lambda: log.events.get(3) and 4 in log.endings)
    engine.cancel(3)
    owner.until(lambda: 3 in log.endings)
    assert isinstance(log.ending(1), InvalidInput) and isinstance(log.ending(2), InvalidInput)
    cancelled = log.ending(3)
    assert isinstance(cancelled, Ending) and cancelled.reason == "cancelled"
    assert engine._reserved() == 0 and owner.run_step() is None


@pytest.mark.parametrize("has_owner", [False, True])
def test_a_failed_step_fails_all_sequences_and_ends_the_process(
    engine: OneTokenEngine, has_owner: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *arguments: killed.append(arguments))
    log = EventLog()
    owner = Owner(engine) if has_owner else None
    engine.fails_at = 3
    for number in (1, 2):
        engine.start(number, prompt(max_tokens=50), log)
    if owner is not None:
        owner.until(lambda: len(log.endings) == 2)
        assert owner.run_step() is None
    for number in (1, 2):
        assert isinstance(log.ending(number), InferenceFailed)
    engine.start(3, prompt(), log)  # may arrive after the failure
    assert isinstance(log.ending(3), InferenceFailed)
    assert killed == [(os.getpid(), signal.SIGTERM)] and len(engine.steps) == 3


@pytest.mark.parametrize("has_owner", [False, True])
def test_closing_ends_running_and_unprepared_sequences(
    engine: OneTokenEngine, has_owner: bool
) -> None:
    log = EventLog()
    owner = Owner(engine) if has_owner else None
    engine.start(1, prompt(max_tokens=60), log)
    if owner is not None:
        owner.until(lambda: log.events.get(1))
    engine.may_prepare.clear()
    engine.start(2, prompt(), log)
    closing = threading.Thread(target=engine.close)
    closing.start()
    engine.may_prepare.set()
    closing.join(10)
    assert not closing.is_alive() and engine.unloaded == 1
    for number in (1, 2):
        ending = log.ending(number)
        assert isinstance(ending, Ending | MaasError)
    assert engine._reserved() == 0
