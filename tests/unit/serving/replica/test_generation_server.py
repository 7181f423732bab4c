"""The queue of a text replica, cancellation, deadlines and draining."""

from __future__ import annotations

import asyncio
import time

import pytest

from maas.domain.deployments import Scaling
from maas.domain.errors import DeadlineExceeded, Overloaded
from maas.domain.generation import Ending, Piece
from maas.serving.replica.generation_server import GeneratorServer
from maas.serving.routing.dispatch import ReplicaLink
from tests.support.fakes.generations import (
    Scripted,
    TextCall,
    has_pieces,
)
from tests.support.fakes.replica_peer import until
from tests.support.fakes.text_server import (
    DONE,
    run,
)


def test_sequences_share_the_time_during_which_they_ran_together() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        began = time.monotonic()
        first, second = TextCall(), TextCall()
        link.submit(first)
        await until(lambda: len(engine.started) == 1)
        await asyncio.sleep(0.05)  # the first one has the engine to itself
        link.submit(second)
        await until(lambda: len(engine.started) == 2)
        for key in list(engine.started):
            engine.emit(key, DONE)
        await first.over()
        await second.over()
        elapsed_us = 1e6 * (time.monotonic() - began)
        assert first.ending.compute_us >= 49_000
        assert first.ending.compute_us + second.ending.compute_us <= elapsed_us

    run(work, Scripted(slots=2))


def test_no_more_sequences_run_than_the_engine_has_slots() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        calls = [TextCall() for _ in range(5)]
        for call in calls:
            link.submit(call)
        await until(lambda: len(engine.started) == 2)
        assert server.stats()["running"] == 2 and server.stats()["queued"] == 3
        for key in (1, 2, 3, 4, 5):
            await until(lambda k=key: k in engine.sinks)  # type: ignore[misc]
            assert len(engine.sinks) <= 2
            engine.emit(key, DONE)
        for call in calls:
            assert (await call.over()).ending == DONE

    run(work)


def test_a_sequence_waits_until_the_engine_has_room_for_it() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        first, second, third = (
            TextCall(max_tokens=60),
            TextCall(max_tokens=50),
            TextCall(max_tokens=1),
        )
        for call in (first, second, third):
            link.submit(call)
        await until(lambda: engine.started)
        await asyncio.sleep(0.03)
        assert engine.started == [1]  # the third does not overtake the second
        engine.emit(1, DONE)
        await until(lambda: engine.started == [1, 2, 3])
        engine.emit(2, DONE)
        engine.emit(3, DONE)
        await third.over()

    run(work, Scripted(slots=8, room=100))


def test_tenants_take_turns() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        calls = [TextCall(str(n), tenant=1) for n in range(6)] + [TextCall("other", tenant=2)]
        for call in calls:
            link.submit(call)
        await until(lambda: len(engine.started) == 1)
        for _ in range(7):
            (key,) = engine.sinks
            engine.emit(key, DONE)
            await until(lambda k=key: not engine.sinks or k not in engine.sinks)  # type: ignore[misc]
            await asyncio.sleep(0.005)
        order = [
            str((engine.generations[k].messages or [{}])[0]["content"]) for k in engine.started
        ]
        assert order.index("other") <= 2

    run(work, Scripted(slots=1))


def test_a_canceled_sequence_frees_its_slot_and_reports_its_usage() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        call, waiting = TextCall(), TextCall("next")
        link.submit(call)
        link.submit(waiting)
        await until(lambda: engine.started == [1])
        engine.emit(1, Piece("a", 1))
        await until(has_pieces(call))
        assert call.stop()
        await call.over()
        assert call.ending == Ending("cancelled", 3, 1)
        await until(lambda: engine.started == [1, 2])
        assert waiting.stop()
        assert (await waiting.over()).ending.reason == "cancelled"

    engine = run(work, Scripted(slots=1))
    assert engine.cancelled == [1, 2]


def test_a_canceled_sequence_that_waits_never_starts() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        first, second, third = (
            TextCall(max_tokens=90),
            TextCall(max_tokens=90),
            TextCall(),
        )
        for call in (first, second, third):
            link.submit(call)
        await until(lambda: engine.started == [1])
        assert second.stop() and third.stop()
        assert (await second.over()).ending == Ending("cancelled", 0, 0)
        assert (await third.over()).ending == Ending("cancelled", 0, 0)
        assert server._queue.waiting == 0
        engine.emit(1, DONE)
        await first.over()
        assert engine.started == [1] and not server.is_busy

    run(work, Scripted(slots=8, room=100))


def test_sequences_of_a_broken_connection_are_canceled() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        for _ in range(3):
            link.submit(TextCall())
        await until(lambda: len(engine.started) == 2)
        link.abort()
        await until(lambda: engine.cancelled == [1, 2])
        await until(lambda: not server.is_busy)
        assert engine.started == [1, 2]

    run(work)


def test_sequences_beyond_the_queue_limit_are_refused_with_retry_after() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        calls = [TextCall() for _ in range(6)]
        for call in calls:
            link.submit(call)
        await until(lambda: len(engine.started) == 2)
        await until(lambda: sum(bool(c.ends) for c in calls) == 3)
        error = calls[-1].error
        assert isinstance(error, Overloaded) and (error.retry_after or 0) >= 1

    run(work, scaling=Scaling(queue_limit=3))


def test_a_deadline_that_passes_in_the_queue_is_an_error() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        first, late = TextCall(), TextCall(seconds=0.05)
        link.submit(first)
        link.submit(late)
        await until(lambda: engine.started == [1])
        await asyncio.sleep(0.06)
        engine.emit(1, DONE)
        assert isinstance((await late.over()).error, DeadlineExceeded)
        assert engine.started == [1]

    run(work, Scripted(slots=1))


def test_busy_seconds_grow_only_while_the_engine_makes_no_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engine uses no CPU time here; that of the test, in the same process, must not count."""

    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        used = time.process_time()
        monkeypatch.setattr(time, "process_time", lambda: used)
        assert server.stats()["busy_s"] == 0
        call = TextCall()
        link.submit(call)
        await until(lambda: engine.started)
        await asyncio.sleep(0.1)
        assert (await link.ping(1.0))["busy_s"] >= 0.1
        engine.emit(1, Piece())  # a long prompt makes progress
        await until(lambda: server.stats()["busy_s"] < 0.05)
        engine.emit(1, DONE)
        await call.over()
        assert not call.pieces and (await link.ping(1.0))["busy_s"] == 0

    run(work)


def test_an_engine_without_cpu_time_does_not_count_as_stuck(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        call = TextCall()
        link.submit(call)
        await until(lambda: engine.started)
        server._last_step -= 20.0
        started = time.process_time()
        monkeypatch.setattr(time, "process_time", lambda: started + 4.0)
        assert server.stats()["busy_s"] == pytest.approx(4.0, abs=0.5)
        monkeypatch.setattr(time, "process_time", lambda: started + 0.1)
        assert server.stats()["busy_s"] >= 20.0  # so little CPU time is no computing
        engine.emit(1, DONE)
        await call.over()

    run(work)


def test_draining_waits_for_accepted_sequences() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        call = TextCall()
        link.submit(call)
        await until(lambda: engine.started)
        draining = asyncio.ensure_future(server.drain())
        await asyncio.sleep(0.02)
        assert not draining.done()
        engine.emit(1, DONE)
        await asyncio.wait_for(draining, 1)
        assert call.ending == DONE and engine.is_closed

    run(work)
