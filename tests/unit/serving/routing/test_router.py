from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from maas.domain.errors import (
    BodyTooLarge,
    DeadlineExceeded,
    NotFound,
    Overloaded,
    ReplicaLost,
    Unavailable,
)
from maas.domain.signature import Signature, TensorSpec
from maas.domain.snapshot import DeploymentRoutes, Snapshot, TargetRoute
from maas.serving.routing import dispatch, live_target
from maas.serving.routing.dispatch import ReplicaLink
from maas.serving.routing.live_target import LiveTarget
from maas.serving.routing.router import Router
from tests.support.fakes.replica_peer import DOUBLES, Asked, Peer, until

OTHER = Signature(
    (TensorSpec("x", "FP32", (2,)),), (TensorSpec("y", "FP32", (2,)),), example={"x": [1, 1]}
)


def target(
    *peers: Peer, version: int = 1, weight: int = 100, signature: Signature = DOUBLES
) -> TargetRoute:
    return TargetRoute(version, "v", weight, signature, tuple(peer.path for peer in peers))


def snapshot(*targets: TargetRoute, limit: int = 256, reason: str = "") -> Snapshot:
    return Snapshot(1, (DeploymentRoutes("d", "m", targets, limit, reason),), (), "d")


class Cluster:
    """A router, and peers that play its replicas."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.router = Router()
        self.peers: list[Peer] = []

    async def peer(self, answers_at_once: bool = False) -> Peer:
        path = self._directory / f"s{len(self.peers)}"
        peer = await Peer(path, answers_at_once).listen()
        self.peers.append(peer)
        return peer

    async def serve(self, *targets: TargetRoute, limit: int = 256) -> LiveTarget:
        """Apply a snapshot of `targets`, wait until they are ready, and give the first."""
        self.router.apply(snapshot(*targets, limit=limit))
        live = self.router.get("d").targets
        for one, wanted in zip(live, targets, strict=True):
            await until(lambda o=one, w=wanted: len(o._links) == len(w.sockets))  # type: ignore[misc]
        return live[0]


def clustered(directory: Path, use: Callable[[Cluster], Awaitable[None]]) -> None:
    async def main() -> None:
        cluster = Cluster(directory)
        try:
            await use(cluster)
        finally:
            cluster.router.close()
            for peer in cluster.peers:
                peer.crash()
            await asyncio.sleep(0.03)

    uvloop.run(main())


async def sent(live: LiveTarget, peer: Peer, call: Asked | None = None) -> Asked:
    """A call of `live` that has arrived at `peer`."""
    call = call or Asked()
    before = len(peer.asked)
    live.submit(call)
    await until(lambda: len(peer.asked) > before)
    return call


def test_names_and_versions_are_found_or_refused(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        router = cluster.router
        with pytest.raises(NotFound, match="no default deployment"):
            router.get(None)
        a = await cluster.peer()
        await cluster.serve(target(a, version=3), target(a, version=4, weight=0))
        assert router.get(None) is router.get("d")
        with pytest.raises(NotFound, match=r"^there is no deployment 'other'$"):
            router.get("other")
        router.deployments["digits"] = router.deployments["d"]
        with pytest.raises(NotFound, match=r"'digts'; did you mean 'digits'\?$"):
            router.get("digts")
        del router.deployments["digits"]
        assert router.get("d").pick(4).version == 4
        with pytest.raises(NotFound, match="does not serve version 9"):
            router.get("d").pick(9)

    clustered(tmp_path, use)


def test_traffic_is_shared_by_weight_and_only_among_the_ready(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a, b = await cluster.peer(), await cluster.peer()
        targets = (target(a, version=1, weight=90), target(b, version=2, weight=10))
        await cluster.serve(*targets, target(a, version=3, weight=0))
        live = cluster.router.get("d")
        picked = Counter(live.pick().version for _ in range(4000))
        assert 3400 < picked[1] < 3800 and picked[1] + picked[2] == 4000
        a.crash()
        await until(lambda: not live.targets[0].is_ready)
        assert {live.pick().version for _ in range(50)} == {2}

    clustered(tmp_path, use)


def test_the_least_busy_replica_gets_the_call(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a, b = await cluster.peer(), await cluster.peer()
        live = await cluster.serve(target(a, b))
        for _ in range(10):
            live.submit(Asked())
        await until(lambda: len(a.asked) + len(b.asked) == 10)
        assert len(a.asked) == len(b.asked) == 5
        a.link.answer(a.link.infers[0])
        await until(lambda: live._links[a.path].in_flight == 0)
        for _ in range(5):
            live.submit(Asked())
        await until(lambda: len(a.asked) == 10)

    clustered(tmp_path, use)


def test_too_many_requests_are_refused(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a = await cluster.peer()
        live = await cluster.serve(target(a), limit=2)
        live.submit(Asked())
        live.submit(Asked())
        with pytest.raises(Overloaded, match="2 requests waiting") as refused:
            live.submit(Asked())
        assert refused.value.retry_after == 1.0

    clustered(tmp_path, use)


def test_a_call_that_could_only_be_late_is_refused(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a = await cluster.peer()
        live = await cluster.serve(target(a))
        live._links[a.path].seconds_per_row = 4.0
        live.submit(Asked())
        with pytest.raises(Overloaded, match="after the deadline") as refused:
            live.submit(Asked(seconds=3.0))
        assert refused.value.retry_after == 4.0
        live.submit(Asked(seconds=5.0))

    clustered(tmp_path, use)


def test_bytes_are_bounded_too_and_an_oversized_call_is_taken_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_target, "BYTES_IN_FLIGHT", 1000)
    monkeypatch.setattr(live_target, "LARGEST_CALL_BYTES", 5000)

    async def use(cluster: Cluster) -> None:
        a, b = await cluster.peer(), await cluster.peer()
        live = await cluster.serve(target(a, b))
        live.submit(Asked((b"x" * 2000,)))
        live.submit(Asked((b"x" * 100,)))
        live.submit(Asked((b"x" * 100,)))  # by number either would do; only one has room
        assert sorted(k.bytes_in_flight for k in live._links.values()) == [200, 2000]
        with pytest.raises(Overloaded, match="MiB"):
            live.submit(Asked((b"x" * 900,)))
        with pytest.raises(BodyTooLarge, match="6000"):
            live.submit(Asked((b"x" * 6000,)))

    clustered(tmp_path, use)


def test_held_bytes_are_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_target, "BYTES_IN_FLIGHT", 1000)

    async def use(cluster: Cluster) -> None:
        live = await cluster.serve(target())
        first, second = Asked((b"x" * 900,)), Asked((b"y" * 900,))
        live.submit(first)
        with pytest.raises(Overloaded, match="MiB"):
            live.submit(second)
        live.cancel(first)
        live.submit(second)

    clustered(tmp_path, use)


def test_calls_are_held_until_a_replica_comes(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        live = await cluster.serve(target(), limit=2)
        gone, stays = Asked(), Asked((b"s",))
        live.submit(gone)
        live.submit(stays)
        with pytest.raises(Overloaded, match="waiting for a replica"):
            live.submit(Asked())
        live.cancel(gone)
        a = await cluster.peer(answers_at_once=True)
        cluster.router.apply(snapshot(target(a)))
        await until(lambda: stays.ends)
        assert stays.ends == [b"s"] and gone.ends == [] and len(a.asked) == 1

    clustered(tmp_path, use)


def test_holding_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_target, "HOLD_SECONDS", 0.15)

    async def use(cluster: Cluster) -> None:
        cluster.router.apply(snapshot(target(), reason="it burned"))
        live = cluster.router.get("d").pick()
        late, held = Asked(seconds=0.01, trouble=True), Asked()
        live.submit(late)
        live.submit(held)
        await until(lambda: held.ends)
        assert isinstance(late.error, DeadlineExceeded)
        assert isinstance(held.error, Unavailable) and "it burned" in held.error.message
        with pytest.raises(Unavailable, match="it burned"):
            live.submit(Asked())

    clustered(tmp_path, use)


def test_a_lost_call_is_tried_once_more(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a, b = await cluster.peer(), await cluster.peer()
        live = await cluster.serve(target(a))
        call = await sent(live, a)
        await cluster.serve(target(a, b))
        a.crash()
        await until(lambda: b.asked)
        assert call.ends == []
        b.crash()
        await until(lambda: call.ends)
        assert isinstance(call.error, ReplicaLost) and call.error.retry_after == 1.0

    clustered(tmp_path, use)


def test_a_replica_whose_connection_broke_is_connected_again(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a = await cluster.peer()
        live = await cluster.serve(target(a))
        call = await sent(live, a, Asked((b"z",)))
        a.answers_at_once = True
        a.link.abort()
        await until(lambda: call.ends)
        assert call.ends == [b"z"] and len(a.links) == 2 and live.is_ready

    clustered(tmp_path, use)


def test_a_connection_that_breaks_as_it_is_made_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = ReplicaLink.connect
    broken: list[ReplicaLink] = []

    async def connect_and_break(path: str, *told: Any) -> ReplicaLink:
        link = await connect(path, *told)
        if not broken:
            broken.append(link)
            link.abort()
            await until(lambda: not link.usable)
        return link

    monkeypatch.setattr(ReplicaLink, "connect", connect_and_break)

    async def use(cluster: Cluster) -> None:
        a = await cluster.peer(answers_at_once=True)
        live = await cluster.serve(target(a))
        call = Asked()
        live.submit(call)
        await until(lambda: call.ends)
        assert call.ends == [b"\0"] and broken

    clustered(tmp_path, use)


def test_a_call_past_its_deadline_is_ended_and_cancelled(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a = await cluster.peer()
        live = await cluster.serve(target(a))
        bad = await sent(live, a, Asked(seconds=0.1, trouble=True))
        call = await sent(live, a, Asked(seconds=0.1))
        await until(lambda: call.ends)
        assert isinstance(call.error, DeadlineExceeded) and len(bad.ends) == 1
        await until(lambda: len(a.link.cancelled) == 2)

    clustered(tmp_path, use)


def test_a_replaced_route_still_keeps_deadlines(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a, b = await cluster.peer(), await cluster.peer()
        live = await cluster.serve(target(a))
        call, patient = await sent(live, a, Asked(seconds=0.2)), await sent(live, a)
        await cluster.serve(target(b, version=2))
        await until(lambda: call.ends)
        assert isinstance(call.error, DeadlineExceeded)
        a.link.answer(a.link.infers[-1])
        await until(lambda: patient.ends)
        assert patient.ends == [b"\0"]
        await until(lambda: not cluster.router.get("d")._retired)

    clustered(tmp_path, use)


def test_a_deleted_deployment_still_keeps_deadlines(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a = await cluster.peer()
        live = await cluster.serve(target(a))
        call = await sent(live, a, Asked(seconds=0.2))
        cluster.router.apply(Snapshot(2))
        await until(lambda: call.ends)
        assert isinstance(call.error, DeadlineExceeded)
        await until(lambda: not cluster.router._removed)

    clustered(tmp_path, use)


def test_what_a_replaced_route_loses_its_heir_answers(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a, b = await cluster.peer(), await cluster.peer(answers_at_once=True)
        live = await cluster.serve(target(a))
        call = await sent(live, a, Asked((b"h",)))
        await cluster.serve(target(b, version=2))
        a.crash()
        await until(lambda: call.ends)
        assert call.ends == [b"h"]

    clustered(tmp_path, use)


class Pinned(Asked):
    is_pinned = True


def test_no_other_version_answers_a_call_that_asked_for_one(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a, b = await cluster.peer(), await cluster.peer(answers_at_once=True)
        live = await cluster.serve(target(a))
        lost = await sent(live, a, Pinned())
        await cluster.serve(target(b, version=2))
        with pytest.raises(Unavailable, match="replaced meanwhile"):
            live.submit(Pinned())
        a.crash()
        await until(lambda: lost.ends)
        assert isinstance(lost.error, Unavailable) and b.asked == []

    clustered(tmp_path, use)


def test_the_same_version_elsewhere_answers_a_call_that_asked_for_it(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a, b = await cluster.peer(), await cluster.peer(answers_at_once=True)
        live = await cluster.serve(target(a))
        await cluster.serve(replace(target(b), variant="other"))
        late = Pinned((b"p",))
        live.submit(late)
        await until(lambda: late.ends)
        assert late.ends == [b"p"]

    clustered(tmp_path, use)


def test_no_route_of_another_signature_is_an_heir(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a, b = await cluster.peer(), await cluster.peer(answers_at_once=True)
        live = await cluster.serve(target(a))
        call = await sent(live, a)
        await cluster.serve(target(b, version=2, signature=OTHER))
        a.crash()
        await until(lambda: call.ends)
        assert isinstance(call.error, Unavailable) and b.asked == []

    clustered(tmp_path, use)


def test_calls_held_by_a_replaced_route_pass_on_and_can_be_cancelled(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        live = await cluster.serve(target())
        gone, stays = Asked(), Asked((b"s",))
        live.submit(gone)
        live.submit(stays)
        await cluster.serve(target(version=2))
        live.cancel(gone)
        a = await cluster.peer(answers_at_once=True)
        await cluster.serve(target(a, version=3))
        await until(lambda: stays.ends)
        assert stays.ends == [b"s"] and len(a.asked) == 1

    clustered(tmp_path, use)


def test_calls_held_by_a_deleted_deployment_end(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        live = await cluster.serve(target())
        bad, call = Asked(trouble=True), Asked()
        live.submit(bad)
        live.submit(call)
        cluster.router.apply(Snapshot(2))
        assert isinstance(call.error, NotFound)

    clustered(tmp_path, use)


def test_calls_are_held_from_the_moment_that_the_last_replica_goes_away(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a = await cluster.peer()
        live = await cluster.serve(target(a))
        await sent(live, a)
        live._down_since -= 60  # it was last down long ago
        a.link.go_away()
        await until(lambda: not live.is_ready)
        call = Asked((b"n",))
        live.submit(call)
        b = await cluster.peer(answers_at_once=True)
        cluster.router.apply(snapshot(target(b)))
        await until(lambda: call.ends)
        assert call.ends == [b"n"]

    clustered(tmp_path, use)


def test_a_replica_that_does_not_read_cannot_fill_the_memory(
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
                call = Asked((body,))
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
        held = Asked((b"h",))
        live.submit(held)
        a.answers_at_once = True
        a.link.read_on()
        await until(lambda: held.ends, seconds=2.0)
        assert held.ends == [b"h"] and live.is_ready
        last = Asked((b"l",))
        live.submit(last)
        await until(lambda: last.ends)

    clustered(tmp_path, use)
