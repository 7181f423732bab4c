"""One replica from its start to its end: start, prove, watch, drain.

starting → ready → (draining →) gone. A replica that ends by itself, hangs or never gets ready
raises the reason out of `live`; one that was told to drain ends without a word.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from maas.control.reconciliation.launcher import LaunchedReplica, Launcher, Process
from maas.domain.deployments import Replica, ReplicaSpec, ReplicaState
from maas.domain.errors import DeadlineExceeded, MaasError, ReplicaLost, Unavailable
from maas.serving.routing.dispatch import ReplicaLink
from maas.serving.wire.json_tensors import json_to_tensors
from maas.serving.wire.messages import Priority

CONNECT_EVERY_S = 0.02
PING_EVERY_S = 1.0
DEATH_NEWS_S = 1.0
KILL_AFTER_DRAIN_S = 5.0
"""What a replica may take beyond its own drain time before it is killed."""


class ReplicaHung(Unavailable):
    """The replica does not answer any more."""

    code = "replica_hung"


@dataclass(frozen=True)
class ReplicaTimeouts:
    """How long to wait for what, in seconds."""

    ready_s: float
    hang_s: float


@dataclass
class LiveReplica:
    """What is known about one replica, and the connection to it."""

    template: ReplicaSpec
    digest: str
    launched: LaunchedReplica | None = None
    state: ReplicaState = ReplicaState.STARTING
    reason: str = ""
    born_at: float = field(default_factory=time.monotonic)
    ready_since: float | None = None
    """On the monotonic clock."""
    stats: dict[str, Any] = field(default_factory=dict)
    """Its latest answer to a ping."""
    link: ReplicaLink | None = None

    @property
    def id(self) -> str:
        return self.launched.spec.id if self.launched else ""

    @property
    def is_wanted(self) -> bool:
        return self.state in (ReplicaState.STARTING, ReplicaState.READY)

    @property
    def is_ready(self) -> bool:
        return self.state is ReplicaState.READY

    def to_replica(self) -> Replica:
        return Replica(
            id=self.id,
            deployment=self.template.deployment,
            version=self.template.version,
            variant=self.template.variant,
            spec_digest=self.digest,
            state=self.state,
            pid=self.launched.process.pid if self.launched else 0,
            started_at=self.launched.started_at if self.launched else 0.0,
            socket=self.launched.spec.socket if self.launched else "",
            reason=self.reason,
        )

    async def live(
        self, launcher: Launcher, patience: ReplicaTimeouts, on_ready: Callable[[], None]
    ) -> None:
        """Until it is gone. Raises MaasError for every end that nobody asked for.

        Cancelled, it leaves the process alone: a control that fails must not stop what serves.
        """
        try:
            await self._life(launcher, patience, on_ready)
        except _Ended as ended:
            if self.state is not ReplicaState.DRAINING:
                raise self._why(launcher, ended.status) from None
        finally:
            task = asyncio.current_task()
            if self.link is not None:
                self.link.close()
                self.link = None
            if self.launched is not None and not (task and task.cancelling()):
                self.launched.process.send_signal(signal.SIGKILL)
                await self.launched.process.ended()
                launcher.forget(self.id)

    async def _life(
        self, launcher: Launcher, patience: ReplicaTimeouts, on_ready: Callable[[], None]
    ) -> None:
        if self.launched is None:
            self.launched = await launcher.start(self.template)
        if self.state is ReplicaState.DRAINING:
            return
        spec, process = self.launched.spec, self.launched.process
        await _while_running(process, self._get_ready(spec, patience))
        if self.state is ReplicaState.STARTING:
            self.state = ReplicaState.READY
            self.ready_since = time.monotonic()
            on_ready()
        await _while_running(process, self._watch(spec, patience))

    async def drain(self, patience_s: float) -> None:
        """Ask it to finish what it accepted; kill it if that takes longer than allowed."""
        if self.launched is None:
            return
        process = self.launched.process
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(patience_s + KILL_AFTER_DRAIN_S):
                await process.ended()
        except TimeoutError:
            process.send_signal(signal.SIGKILL)
            await process.ended()

    async def _get_ready(self, spec: ReplicaSpec, patience: ReplicaTimeouts) -> None:
        """Connected, answers a ping, and answered its example."""
        try:
            async with asyncio.timeout(patience.ready_s):
                link = await self._connect(spec.socket)
                await self._ping(link, patience.hang_s)
                tensors, rows, _ = json_to_tensors(spec.signature, spec.signature.example)
                deadline = time.monotonic() + patience.ready_s
                await link.predict(spec.signature, tensors, rows, deadline, Priority.PROOF)
        except TimeoutError:
            raise DeadlineExceeded(
                f"replica {spec.id} was not ready after {patience.ready_s:g} s"
            ) from None

    async def _watch(self, spec: ReplicaSpec, patience: ReplicaTimeouts) -> None:
        """Pings for as long as the replica lives; raises ReplicaHung when they go unanswered."""
        while True:
            await asyncio.sleep(PING_EVERY_S)
            if self.state is ReplicaState.DRAINING:
                continue
            try:
                async with asyncio.timeout(patience.hang_s):
                    link = self.link
                    if link is None or not link.is_open:
                        link = await self._connect(spec.socket)
                    await self._ping(link, patience.hang_s)
            except TimeoutError:
                raise ReplicaHung(
                    f"replica {self.id} did not answer for {patience.hang_s:g} s"
                ) from None
            except ReplicaLost:
                continue  # the link broke; if the replica did not end, the next ping reconnects

    async def _connect(self, path: str) -> ReplicaLink:
        while True:
            try:
                self.link = await ReplicaLink.connect(path)
            except OSError:
                await asyncio.sleep(CONNECT_EVERY_S)
            else:
                return self.link

    async def _ping(self, link: ReplicaLink, timeout_s: float) -> None:
        try:
            self.stats = await link.ping(timeout_s)
        except TimeoutError:
            raise ReplicaHung(f"replica {self.id} did not answer for {timeout_s:g} s") from None
        if self.stats.get("busy_s", 0.0) > timeout_s:
            raise ReplicaHung(f"replica {self.id} was at one batch for {timeout_s:g} s")

    def _why(self, launcher: Launcher, status: int | None) -> MaasError:
        said = launcher.failure(self.id)
        if said is not None:
            return said
        if status is None:
            how = "ended"
        elif status < 0:
            how = f"was killed by signal {-status} ({signal.strsignal(-status)})"
        else:
            how = f"ended with exit status {status}"
        lines = launcher.last_lines(self.id)
        return ReplicaLost(
            f"replica {self.id} {how}" + (f"; its log ends: {lines}" if lines else "")
        )


class _Ended(Exception):
    """The process is gone."""

    def __init__(self, status: int | None) -> None:
        super().__init__(status)
        self.status = status


async def _while_running(process: Process, work: Coroutine[Any, Any, None]) -> None:
    """Waits for `work`; raises _Ended as soon as the process is gone."""
    task = asyncio.ensure_future(work)
    ended = asyncio.ensure_future(process.ended())
    try:
        await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
        if task.done() and isinstance(task.exception(), ReplicaLost):
            # The connection tells of a death a moment before the system does, and less of it.
            await asyncio.wait({ended}, timeout=DEATH_NEWS_S)
        if ended.done():
            raise _Ended(ended.result())
        task.result()
    finally:
        task.cancel()
        ended.cancel()
        await asyncio.gather(task, ended, return_exceptions=True)
