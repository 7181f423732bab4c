"""Generations between a router and replicas that do only what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from maas.domain.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    MaasError,
    Overloaded,
    ReplicaLost,
    Unavailable,
)
from maas.domain.generation import Ending, Piece
from maas.domain.snapshot import DeploymentRoutes, Snapshot, TargetRoute
from maas.serving.routing import generation_call
from maas.serving.routing.live_target import LiveTarget
from maas.serving.routing.router import Router
from tests.support.fakes.generations import TEXT_TO_TEXT, Written, wrote
from tests.support.fakes.replica_peer import Peer, until

DONE = Ending("stop", 5, 2)


class Replicas:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.router = Router()
        self.peers: list[Peer] = []

    async def serve(self, count: int = 1, limit: int = 256) -> LiveTarget:
        for at in range(count):
            self.peers.append(await Peer(self._directory / f"s{at}").listen())
        self.apply(*self.peers, limit=limit)
        (live,) = self.router.get("d").targets
        await until(lambda: len(live._links) == count)
        return live

    def apply(self, *peers: Peer, limit: int = 256) -> None:
        sockets = tuple(peer.path for peer in peers)
        target = TargetRoute(1, "v", 100, TEXT_TO_TEXT, sockets, "text-generation")
        self.router.apply(Snapshot(1, (DeploymentRoutes("d", "m", (target,), limit),), (), "d"))

    async def holder(self, text: str) -> Peer:
        """Who was asked for the generation of `text`."""

        def found() -> list[Peer]:
            return [peer for peer in self.peers if peer.links and self.numbers(peer, text)]

        await until(found)
        return found()[-1]

    def numbers(self, peer: Peer, text: str) -> list[int]:
        return [
            g.id
            for link in peer.links
            for g in link.generates
            if g.generation.messages == [{"role": "user", "content": text}]
        ]


def run(directory: Path, use: Callable[[Replicas], Awaitable[None]]) -> None:
    async def main() -> None:
        replicas = Replicas(directory)
        try:
            await use(replicas)
        finally:
            replicas.router.close()
            for peer in replicas.peers:
                peer.crash()
            await asyncio.sleep(0.03)

    uvloop.run(main())


def test_pieces_and_endings_of_many_share_a_frame_and_find_their_calls(tmp_path: Path) -> None:
    async def use(replicas: Replicas) -> None:
        live = await replicas.serve()
        calls = [Written(str(n)) for n in range(3)]
        for call in calls:
            live.generate(call)
        link = replicas.peers[0].link
        await until(lambda: len(link.generates) == 3)
        assert [g.tenant for g in link.generates] == [1, 1, 1]
        ids = [g.id for g in link.generates]
        link.say(*((number, Piece(f"to {number}", 1), None) for number in ids))
        link.say(*((number, Piece("!", 1), DONE) for number in ids))
        for number, call in zip(ids, calls, strict=True):
            await call.over()
            assert call.text == f"to {number}!" and call.ending == DONE
            assert call.completion_tokens == 2
            live.cancel_generation(call)  # its caller hangs up at the very end
        await asyncio.sleep(0.01)
        assert [len(call.ends) for call in calls] == [1, 1, 1]
        assert live._least_busy().in_flight == 0  # type: ignore[union-attr]

    run(tmp_path, use)


def test_nobody_writes_after_a_cancellation_and_the_counts_still_come(tmp_path: Path) -> None:
    async def use(replicas: Replicas) -> None:
        live = await replicas.serve()
        call = Written("x")
        live.generate(call)
        link = replicas.peers[0].link
        await until(lambda: link.generates)
        (number,) = replicas.numbers(replicas.peers[0], "x")
        link.say((number, Piece("a", 1), None))
        await until(wrote(call))
        live.cancel_generation(call)
        live.cancel_generation(call)
        await until(lambda: link.cancelled == [number])
        link.say((number, Piece("b", 1), None))
        link.say((number, Piece("c", 1), Ending("cancelled", 4, 3)))
        await call.over()
        assert call.text == "a" and call.ending == Ending("cancelled", 4, 3)
        live.cancel_generation(call)
        await asyncio.sleep(0.01)
        assert len(call.ends) == 1 and link.cancelled == [number]

    run(tmp_path, use)


def test_what_is_cancelled_before_it_left_ends_in_a_later_tick(tmp_path: Path) -> None:
    async def use(replicas: Replicas) -> None:
        live = await replicas.serve()
        unsent = Written("unsent")
        live.generate(unsent)
        live.cancel_generation(unsent)
        assert not unsent.ends
        assert (await unsent.over()).ending == Ending("cancelled", 0, 0)
        replicas.apply()
        await until(lambda: not live.is_ready)
        held = Written("held")
        live.generate(held)
        live.cancel_generation(held)
        assert (await held.over()).ending == Ending("cancelled", 0, 0)
        assert not live._waiting
        assert not replicas.peers[0].link.generates

    run(tmp_path, use)


def test_one_that_has_written_nothing_is_given_to_another_replica_once(tmp_path: Path) -> None:
    async def use(replicas: Replicas) -> None:
        live = await replicas.serve(2)
        call = Written("x")
        live.generate(call)
        first = await replicas.holder("x")
        first.crash()
        (second,) = [peer for peer in replicas.peers if peer is not first]
        await until(lambda: replicas.numbers(second, "x"))
        assert not call.ends
        second.crash()
        assert isinstance((await call.over()).error, ReplicaLost)

    run(tmp_path, use)


def test_one_that_has_written_is_lost_at_once_with_its_replica(tmp_path: Path) -> None:
    async def use(replicas: Replicas) -> None:
        live = await replicas.serve(2)
        call, cancelled = Written("x"), Written("cancelled")
        live.generate(call)
        first = await replicas.holder("x")
        (number,) = replicas.numbers(first, "x")
        first.link.say((number, Piece("a", 1), None))
        await until(wrote(call))
        live.generate(cancelled)
        other = await replicas.holder("cancelled")
        live.cancel_generation(cancelled)
        await until(lambda: other.link.cancelled)
        first.crash()
        other.crash()
        assert isinstance((await call.over(1)).error, ReplicaLost)
        assert call.completion_tokens == 1
        assert (await cancelled.over(1)).ending.reason == "cancelled"

    run(tmp_path, use)


def test_at_its_deadline_it_is_stopped_and_its_cost_is_known(tmp_path: Path) -> None:
    async def use(replicas: Replicas) -> None:
        live = await replicas.serve()
        call = Written("x", seconds=0.05)
        live.generate(call)
        link = replicas.peers[0].link
        await until(lambda: link.cancelled)
        assert not call.ends
        link.say((link.generates[0].id, Piece("late", 1), Ending("cancelled", 4, 3)))
        await call.over()
        assert isinstance(call.error, DeadlineExceeded)
        assert call.usage == Ending("cancelled", 4, 3) and not call.pieces

    run(tmp_path, use)


def test_a_replica_that_does_not_stop_is_not_waited_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation_call, "USAGE_GRACE_SECONDS", 0.1)

    async def use(replicas: Replicas) -> None:
        live = await replicas.serve()
        call = Written("x", seconds=0.05)
        live.generate(call)
        assert isinstance((await call.over(2)).error, DeadlineExceeded)
        assert call.usage is None

    run(tmp_path, use)


def test_errors_of_the_engine_reach_the_caller_as_they_are(tmp_path: Path) -> None:
    async def use(replicas: Replicas) -> None:
        live = await replicas.serve()
        call = Written("x")
        live.generate(call)
        link = replicas.peers[0].link
        await until(lambda: link.generates)
        error = ContextLengthExceeded("long", prompt_tokens=9, context_length=8)
        link.fail(link.generates[0].id, error)
        await call.over()
        assert isinstance(call.error, ContextLengthExceeded)
        assert call.error.details == {"prompt_tokens": 9, "context_length": 8}

    run(tmp_path, use)


def test_one_call_that_raises_costs_the_others_of_its_frame_nothing(tmp_path: Path) -> None:
    async def use(replicas: Replicas) -> None:
        live = await replicas.serve()
        bad, good = Written("bad", trouble=True), Written("good")
        live.generate(bad)
        live.generate(good)
        link = replicas.peers[0].link
        await until(lambda: len(link.generates) == 2)
        ids = [g.id for g in link.generates]
        link.say(*((number, Piece("a", 1), None) for number in ids))
        await until(wrote(good))
        assert type((await bad.over()).error) is MaasError
        await until(lambda: link.cancelled == [ids[0]])
        link.say((ids[0], Piece(), Ending("cancelled", 1, 1)), (ids[1], Piece(), DONE))
        assert (await good.over()).ending == DONE and len(bad.ends) == 1

    run(tmp_path, use)


def test_too_many_are_refused_and_so_is_a_deployment_without_replicas(tmp_path: Path) -> None:
    async def use(replicas: Replicas) -> None:
        live = await replicas.serve(limit=2)
        live.generate(Written())
        live.generate(Written())
        with pytest.raises(Overloaded) as refused:
            live.generate(Written())
        assert (refused.value.retry_after or 0) >= 1
        live._down_since = 0.0
        replicas.apply()
        await until(lambda: not live.is_ready)
        live._down_since = 0.0
        with pytest.raises(Unavailable, match="no ready replica"):
            live.generate(Written())

    run(tmp_path, use)
