"""A router and fake replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from maas.domain.signature import Signature, TensorSpec
from maas.domain.snapshot import DeploymentRoutes, Snapshot, TargetRoute
from maas.serving.routing.live_target import LiveTarget
from maas.serving.routing.router import Router
from tests.support.fakes.replica_peer import DOUBLES, FakeCall, Peer, until

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
    """A router, and peers in place of its replicas."""

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
        """Apply a snapshot of `targets`, wait until they are ready, and return the first."""
        self.router.apply(snapshot(*targets, limit=limit))
        live = self.router.get("d").targets
        for one, entry in zip(live, targets, strict=True):
            await until(lambda o=one, e=entry: len(o._links) == len(e.sockets))  # type: ignore[misc]
        return live[0]


def with_cluster(directory: Path, use: Callable[[Cluster], Awaitable[None]]) -> None:
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


async def submit_and_wait(live: LiveTarget, peer: Peer, call: FakeCall | None = None) -> FakeCall:
    """Submit a call to `live` and wait until `peer` has it."""
    call = call or FakeCall()
    before = len(peer.received_ids)
    live.submit(call)
    await until(lambda: len(peer.received_ids) > before)
    return call
