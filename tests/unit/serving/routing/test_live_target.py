"""The choice of a replica, limits, waiting for a replica, and lost connections."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from maas.domain.errors import (
    BodyTooLarge,
    DeadlineExceeded,
    Overloaded,
    ReplicaLost,
    Unavailable,
)
from maas.serving.routing import dispatch, live_target
from maas.serving.routing.dispatch import ReplicaLink
from tests.support.fakes.cluster import (
    Cluster,
    snapshot,
    submit_and_wait,
    target,
    with_cluster,
)
from tests.support.fakes.replica_peer import FakeCall, until


def test_the_least_busy_replica_gets_the_call(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a, b = await cluster.peer(), await cluster.peer()
        live = await cluster.serve(target(a, b))
        for _ in range(10):
            live.submit(FakeCall())
        await until(lambda: len(a.received_ids) + len(b.received_ids) == 10)
        assert len(a.received_ids) == len(b.received_ids) == 5
        a.link.answer(a.link.infers[0])
        await until(lambda: live._links[a.path].in_flight == 0)
        for _ in range(5):
            live.submit(FakeCall())
        await until(lambda: len(a.received_ids) == 10)

    with_cluster(tmp_path, use)


def test_too_many_requests_are_refused(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a = await cluster.peer()
        live = await cluster.serve(target(a), limit=2)
        live.submit(FakeCall())
        live.submit(FakeCall())
        with pytest.raises(Overloaded, match="2 requests waiting") as refused:
            live.submit(FakeCall())
        assert refused.value.retry_after == 1.0

    with_cluster(tmp_path, use)


def test_a_call_that_cannot_meet_its_deadline_is_refused(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a = await cluster.peer()
        live = await cluster.serve(target(a))
        live._links[a.path].seconds_per_row = 4.0
        live.submit(FakeCall())
        with pytest.raises(Overloaded, match="after the deadline") as refused:
            live.submit(FakeCall(seconds=3.0))
        assert refused.value.retry_after == 4.0
        live.submit(FakeCall(seconds=5.0))

    with_cluster(tmp_path, use)


def test_bytes_in_flight_are_limited_and_an_oversized_call_is_accepted_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_target, "BYTES_IN_FLIGHT", 1000)
    monkeypatch.setattr(live_target, "LARGEST_CALL_BYTES", 5000)

    async def use(cluster: Cluster) -> None:
        a, b = await cluster.peer(), await cluster.peer()
        live = await cluster.serve(target(a, b))
        live.submit(FakeCall((b"x" * 2000,)))
        live.submit(FakeCall((b"x" * 100,)))
        live.submit(FakeCall((b"x" * 100,)))  # by number either would do; only one has room
        assert sorted(k.bytes_in_flight for k in live._links.values()) == [200, 2000]
        with pytest.raises(Overloaded, match="MiB"):
            live.submit(FakeCall((b"x" * 900,)))
        with pytest.raises(BodyTooLarge, match="6000"):
            live.submit(FakeCall((b"x" * 6000,)))

    with_cluster(tmp_path, use)


def test_bytes_of_waiting_calls_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_target, "BYTES_IN_FLIGHT", 1000)

    async def use(cluster: Cluster) -> None:
        live = await cluster.serve(target())
        first, second = FakeCall((b"x" * 900,)), FakeCall((b"y" * 900,))
        live.submit(first)
        with pytest.raises(Overloaded, match="MiB"):
            live.submit(second)
        live.cancel(first)
        live.submit(second)

    with_cluster(tmp_path, use)


def test_calls_wait_until_a_replica_starts(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        live = await cluster.serve(target(), limit=2)
        canceled, waiting_call = FakeCall(), FakeCall((b"s",))
        live.submit(canceled)
        live.submit(waiting_call)
        with pytest.raises(Overloaded, match="waiting for a replica"):
            live.submit(FakeCall())
        live.cancel(canceled)
        a = await cluster.peer(answers_at_once=True)
        cluster.router.apply(snapshot(target(a)))
        await until(lambda: waiting_call.ends)
        assert waiting_call.ends == [b"s"] and canceled.ends == [] and len(a.received_ids) == 1

    with_cluster(tmp_path, use)


def test_waiting_for_a_replica_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_target, "HOLD_SECONDS", 0.15)

    async def use(cluster: Cluster) -> None:
        cluster.router.apply(snapshot(target(), reason="it burned"))
        live = cluster.router.get("d").pick()
        late, waiting = FakeCall(seconds=0.01, raises=True), FakeCall()
        live.submit(late)
        live.submit(waiting)
        await until(lambda: waiting.ends)
        assert isinstance(late.error, DeadlineExceeded)
        assert isinstance(waiting.error, Unavailable) and "it burned" in waiting.error.message
        with pytest.raises(Unavailable, match="it burned"):
            live.submit(FakeCall())

    with_cluster(tmp_path, use)


def test_a_lost_call_is_repeated_once(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a, b = await cluster.peer(), await cluster.peer()
        live = await cluster.serve(target(a))
        call = await submit_and_wait(live, a)
        await cluster.serve(target(a, b))
        a.crash()
        await until(lambda: b.received_ids)
        assert call.ends == []
        b.crash()
        await until(lambda: call.ends)
        assert isinstance(call.error, ReplicaLost) and call.error.retry_after == 1.0

    with_cluster(tmp_path, use)


def test_a_broken_connection_is_restored(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a = await cluster.peer()
        live = await cluster.serve(target(a))
        call = await submit_and_wait(live, a, FakeCall((b"z",)))
        a.answers_at_once = True
        a.link.abort()
        await until(lambda: call.ends)
        assert call.ends == [b"z"] and len(a.links) == 2 and live.is_ready

    with_cluster(tmp_path, use)


def test_a_connection_that_breaks_at_once_is_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = ReplicaLink.connect
    broken: list[ReplicaLink] = []

    async def connect_and_break(path: str, *options: Any) -> ReplicaLink:
        link = await connect(path, *options)
        if not broken:
            broken.append(link)
            link.abort()
            await until(lambda: not link.usable)
        return link

    monkeypatch.setattr(ReplicaLink, "connect", connect_and_break)

    async def use(cluster: Cluster) -> None:
        a = await cluster.peer(answers_at_once=True)
        live = await cluster.serve(target(a))
        call = FakeCall()
        live.submit(call)
        await until(lambda: call.ends)
        assert call.ends == [b"\0"] and broken

    with_cluster(tmp_path, use)


def test_a_call_past_its_deadline_fails_and_is_canceled(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a = await cluster.peer()
        live = await cluster.serve(target(a))
        bad = await submit_and_wait(live, a, FakeCall(seconds=0.1, raises=True))
        call = await submit_and_wait(live, a, FakeCall(seconds=0.1))
        await until(lambda: call.ends)
        assert isinstance(call.error, DeadlineExceeded) and len(bad.ends) == 1
        await until(lambda: len(a.link.cancelled) == 2)

    with_cluster(tmp_path, use)


def test_calls_wait_from_the_moment_the_last_replica_leaves(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a = await cluster.peer()
        live = await cluster.serve(target(a))
        await submit_and_wait(live, a)
        live._down_since -= 60  # it was last down long ago
        a.link.go_away()
        await until(lambda: not live.is_ready)
        call = FakeCall((b"n",))
        live.submit(call)
        b = await cluster.peer(answers_at_once=True)
        cluster.router.apply(snapshot(target(b)))
        await until(lambda: call.ends)
        assert call.ends == [b"n"]

    with_cluster(tmp_path, use)


def test_a_replica_that_does_not_read_cannot_fill_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "UNSENT_BYTES", 1 << 20)
    monkeypatch.setattr(live_target, "HOLD_SECONDS", 0.2)

    async def use(cluster: Cluster) -> None:
        a = await cluster.peer()
        live = await cluster.serve(target(a), limit=16)
        link = live._links[a.path]
        a.link.stop_reading()
        body = bytes(200_000)
        refused = 0
        for _ in range(400):
            try:
                call = FakeCall((body,))
                live.submit(call)
                await asyncio.sleep(0.001)
                live.cancel(call)
            except Overloaded:
                refused += 1
        assert refused > 0 and link._transport is not None
        assert link._transport.get_write_buffer_size() < 2 << 20
        assert not live.is_ready
        monkeypatch.setattr(live_target, "HOLD_SECONDS", 5.0)
        live._down_since = time.monotonic()
        waiting = FakeCall((b"h",))
        live.submit(waiting)
        a.answers_at_once = True
        a.link.resume_reading()
        await until(lambda: waiting.ends, seconds=2.0)
        assert waiting.ends == [b"h"] and live.is_ready
        last = FakeCall((b"l",))
        live.submit(last)
        await until(lambda: last.ends)

    with_cluster(tmp_path, use)
