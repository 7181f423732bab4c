"""The server polls for the next request only if it pays off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from maas.gateway.http import busy_poll
from maas.gateway.http.busy_poll import BusyPoll


class _Loop:
    """An event loop whose iterations and clock the test advances."""

    def __init__(self) -> None:
        self.now = 100.0
        self._soon: list[Callable[[], None]] = []

    def call_soon(self, call: Callable[[], None]) -> None:
        self._soon.append(call)

    def run(self, seconds: float, per_iteration: float = 1e-5) -> int:
        """The number of iterations until `seconds` have passed or the loop would sleep."""
        end, iterations = self.now + seconds, 0
        while self._soon and self.now < end:
            soon, self._soon = self._soon, []
            assert len(soon) == 1
            for call in soon:
                call()
            iterations += 1
            self.now += per_iteration
        self.now = max(self.now, end)
        return iterations


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> _Loop:
    loop = _Loop()
    monkeypatch.setattr(busy_poll, "monotonic", lambda: loop.now)
    return loop


def _poll(loop: asyncio.AbstractEventLoop, longest_s: float, working: bool = False) -> BusyPoll:
    return BusyPoll(loop, longest_s, lambda: working)


def _iterations(loop: _Loop, subject: BusyPoll, pause: float, count: int = 40) -> int:
    """Iterations without sleep after the last of `count` answers, with a pause after each."""
    iterations = 0
    for _ in range(count):
        subject.request_began(loop.now)
        subject.answered(loop.now)
        iterations = loop.run(pause)
    return iterations


def test_a_client_that_returns_at_once_is_polled_for(loop: _Loop) -> None:
    subject = _poll(loop, 500e-6)  # type: ignore[arg-type]
    assert _iterations(loop, subject, 200e-6) == 20
    assert loop.run(1.0) <= 31, "and no longer if it does not return"
    assert loop.run(1.0) == 0


@pytest.mark.parametrize("pause", [0.001, 0.01, 1.0])
def test_slow_clients_and_streams_are_not_polled_for(loop: _Loop, pause: float) -> None:
    assert _iterations(loop, _poll(loop, 500e-6), pause) == 0  # type: ignore[arg-type]


def test_there_is_no_polling_while_a_replica_works_or_if_it_is_switched_off(loop: _Loop) -> None:
    assert _iterations(loop, _poll(loop, 500e-6, working=True), 1e-4) <= 1  # type: ignore[arg-type]
    assert _iterations(loop, _poll(loop, 0.0), 1e-4) == 0  # type: ignore[arg-type]
