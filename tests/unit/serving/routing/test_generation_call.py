"""Generations between a router and fake replicas."""

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
from tests.support.fakes.generations import TEXT_TO_TEXT, TextCall, has_pieces
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
        """The peer that received the generation of `text`."""

        def holders() -> list[Peer]:
            return [peer for peer in self.peers if peer.links and self.numbers(peer, text)]

        await until(holders)
        return holders()[-1]

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


def test_pieces_and_endings_in_one_frame_reach_their_calls(tmp_path: Path) -> None:
    async def use(replicas: Replicas) -> None:
        live = await replicas.serve()
        calls = [TextCall(str(n)) for n in range(3)]
        for call in calls:
            live.generate(call)
        link = replicas.peers[0].link
        await until(lambda: len(link.generates) == 3)
        assert [g.tenant for g in link.generates] == [1, 1, 1]
        ids = [g.id for g in link.generates]
        link.send_steps(*((number, Piece(f"to {number}", 1), None) for number in ids))
        link.send_steps(*((number, Piece("!", 1), DONE) for number in ids))
        for number, call in zip(ids, calls, strict=True):
            await call.over()
            assert call.text == f"to {number}!" and call.ending == DONE
            assert call.completion_tokens == 2
            live.cancel_generation(call)  # the client disconnects at the very end
        await asyncio.sleep(0.01)
        assert [len(call.ends) for call in calls] == [1, 1, 1]
        assert live._least_busy().in_flight == 0  # type: ignore[union-attr]

    run(tmp_path, use)


def test_after_a_cancellation_only_the_ending_arrives(tmp_path: Path) -> None:
    async def use(replicas: Replicas) -> None:
        live = await replicas.serve()
        call = TextCall("x")
        live.generate(call)
        link = replicas.peers[0].link
        await until(lambda: link.generates)
        (number,) = replicas.numbers(replicas.peers[0], "x")
        link.send_steps((number, Piece("a", 1), None))
        await until(has_pieces(call))
        live.cancel_generation(call)
        live.cancel_generation(call)
        await until(lambda: link.cancelled == [number])
        link.send_steps((number, Piece("b", 1), None))
        link.send_steps((number, Piece("c", 1), Ending("cancelled", 4, 3)))
        await call.over()
        assert call.text == "a" and call.ending == Ending("cancelled", 4, 3)
        live.cancel_generation(call)
        await asyncio.sleep(0.01)
        assert len(call.ends) == 1 and link.cancelled == [number]

    run(tmp_path, use)


def test_a_generation_canceled_before_it_is_sent_ends_in_a_later_tick(tmp_path: Path) -> None:
    async def use(replicas: Replicas) -> None:
        live = await replicas.serve()
        unsent = TextCall("unsent")
        live.generate(unsent)
        live.cancel_generation(unsent)
        assert not unsent.ends
        assert (await unsent.over()).ending == Ending("cancelled", 0, 0)
        replicas.apply()
        await until(lambda: not live.is_ready)
        waiting = TextCall("waiting")
        live.generate(waiting)
        live.cancel_generation(waiting)
        assert (await waiting.over()).ending == Ending("cancelled", 0, 0)
        assert not live._waiting
        assert not replicas.peers[0].link.generates

    run(tmp_path, use)


def test_a_generation_without_output_is_repeated_once(tmp_path: Path) -> None:
    async def use(replicas: Replicas) -> None:
        live = await replicas.serve(2)
        call = TextCall("x")
        live.generate(call)
        first = await replicas.holder("x")
        first.crash()
        (second,) = [peer for peer in replicas.peers if peer is not first]
        await until(lambda: replicas.numbers(second, "x"))
        assert not call.ends
        second.crash()
        assert isinstance((await call.over()).error, ReplicaLost)

    run(tmp_path, use)


def test_a_generation_with_output_fails_with_its_replica(tmp_path: Path) -> None:
    async def use(replicas: Replicas) -> None:
        live = await replicas.serve(2)
        call, cancelled = TextCall("x"), TextCall("cancelled")
        live.generate(call)
        first = await replicas.holder("x")
        (number,) = replicas.numbers(first, "x")
        first.link.send_steps((number, Piece("a", 1), None))
        await until(has_pieces(call))
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


def test_a_generation_is_stopped_at_its_deadline_and_reports_its_usage(tmp_path: Path) -> None:
    async def use(replicas: Replicas) -> None:
        live = await replicas.serve()
        call = TextCall("x", seconds=0.05)
        live.generate(call)
        link = replicas.peers[0].link
        await until(lambda: link.cancelled)
        assert not call.ends
        link.send_steps((link.generates[0].id, Piece("late", 1), Ending("cancelled", 4, 3)))
        await call.over()
        assert isinstance(call.error, DeadlineExceeded)
        assert call.usage == Ending("cancelled", 4, 3) and not call.pieces

    run(tmp_path, use)


def test_the_wait_for_the_usage_of_a_late_generation_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation_call, "USAGE_GRACE_SECONDS", 0.1)

    async def use(replicas: Replicas) -> None:
        live = await replicas.serve()
        call = TextCall("x", seconds=0.05)
        live.generate(call)
        assert isinstance((await call.over(2)).error, DeadlineExceeded)
        assert call.usage is None

    run(tmp_path, use)


def test_errors_of_the_engine_reach_the_caller_unchanged(tmp_path: Path) -> None:
    async def use(replicas: Replicas) -> None:
        live = await replicas.serve()
        call = TextCall("x")
        live.generate(call)
        link = replicas.peers[0].link
        await until(lambda: link.generates)
        error = ContextLengthExceeded("long", prompt_tokens=9, context_length=8)
        link.fail(link.generates[0].id, error)
        await call.over()
        assert isinstance(call.error, ContextLengthExceeded)
        assert call.error.details == {"prompt_tokens": 9, "context_length": 8}

    run(tmp_path, use)


def test_a_call_that_raises_does_not_affect_others_of_its_frame(tmp_path: Path) -> None:
    async def use(replicas: Replicas) -> None:
        live = await replicas.serve()
        bad, good = TextCall("bad", raises=True), TextCall("good")
        live.generate(bad)
        live.generate(good)
        link = replicas.peers[0].link
        await until(lambda: len(link.generates) == 2)
        ids = [g.id for g in link.generates]
        link.send_steps(*((number, Piece("a", 1), None) for number in ids))
        await until(has_pieces(good))
        assert type((await bad.over()).error) is MaasError
        await until(lambda: link.cancelled == [ids[0]])
        link.send_steps((ids[0], Piece(), Ending("cancelled", 1, 1)), (ids[1], Piece(), DONE))
        assert (await good.over()).ending == DONE and len(bad.ends) == 1

    run(tmp_path, use)


def test_too_many_generations_and_a_deployment_without_replicas_are_refused(tmp_path: Path) -> None:
    async def use(replicas: Replicas) -> None:
        live = await replicas.serve(limit=2)
        live.generate(TextCall())
        live.generate(TextCall())
        with pytest.raises(Overloaded) as refused:
            live.generate(TextCall())
        assert (refused.value.retry_after or 0) >= 1
        live._down_since = 0.0
        replicas.apply()
        await until(lambda: not live.is_ready)
        live._down_since = 0.0
        with pytest.raises(Unavailable, match="no ready replica"):
            live.generate(TextCall())

    run(tmp_path, use)
