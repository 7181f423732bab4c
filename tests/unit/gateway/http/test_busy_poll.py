from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from maas.gateway.http import busy_poll
from maas.gateway.http.busy_poll import BusyPoll


class _Loop:
    """Its turns are taken by hand, and so is its time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.turns = 0
        self._soon: list[Callable[[], None]] = []

    def call_soon(self, call: Callable[[], None]) -> None:
        self._soon.append(call)

    def run(self, seconds: float, per_turn: float = 1e-5) -> int:
        """Turns that it took without sleeping until `seconds` had passed or it slept."""
        ends, turns = self.now + seconds, 0
        while self._soon and self.now < ends:
            soon, self._soon = self._soon, []
            assert len(soon) == 1
            for call in soon:
                call()
            turns += 1
            self.now += per_turn
        self.now = max(self.now, ends)
        return turns


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> _Loop:
    made = _Loop()
    monkeypatch.setattr(busy_poll, "monotonic", lambda: made.now)
    return made


def _made(loop: asyncio.AbstractEventLoop, longest: float, working: bool = False) -> BusyPoll:
    return BusyPoll(loop, longest, lambda: working)


def _calls(loop: _Loop, subject: BusyPoll, pause: float, count: int = 40) -> int:
    """Turns without sleep after the last of `count` answers, each asked for after a pause."""
    turns = 0
    for _ in range(count):
        subject.request_began(loop.now)
        subject.answered(loop.now)
        turns = loop.run(pause)
    return turns


def test_who_comes_back_at_once_is_looked_for_until_he_comes(loop: _Loop) -> None:
    subject = _made(loop, 500e-6)  # type: ignore[arg-type]
    assert _calls(loop, subject, 200e-6) == 20
    assert loop.run(1.0) <= 31, "and no longer than that if he does not"
    assert loop.run(1.0) == 0


@pytest.mark.parametrize("pause", [0.001, 0.01, 1.0])
def test_slow_callers_and_streams_are_not_waited_for(loop: _Loop, pause: float) -> None:
    assert _calls(loop, _made(loop, 500e-6), pause) == 0  # type: ignore[arg-type]


def test_nobody_is_looked_for_while_a_replica_works_or_if_it_is_switched_off(loop: _Loop) -> None:
    assert _calls(loop, _made(loop, 500e-6, working=True), 1e-4) <= 1  # type: ignore[arg-type]
    assert _calls(loop, _made(loop, 0.0), 1e-4) == 0  # type: ignore[arg-type]
