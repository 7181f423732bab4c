"""The life cycle of one replica: start, check readiness, monitor, drain.

starting → ready → (draining →) exited. `live` raises the reason if a replica exits, hangs or does
not get ready; it returns if the replica was asked to drain.
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
EXIT_NOTICE_S = 1.0
"""Time for the exit status to arrive after the connection broke."""
KILL_AFTER_DRAIN_S = 5.0
"""Time beyond the drain time of a replica before it is killed."""


class ReplicaHung(Unavailable):
    """The replica does not answer."""

    code = "replica_hung"


@dataclass(frozen=True)
class ReplicaTimeouts:
    """Timeouts of one replica, in seconds."""

    ready_s: float
    """From the start to the first answer."""
    hang_s: float
    """Without progress while it has work."""


@dataclass
class LiveReplica:
    """The state of one replica, and the connection to it."""

    template: ReplicaSpec
    digest: str
    launched: LaunchedReplica | None = None
    state: ReplicaState = ReplicaState.STARTING
    reason: str = ""
    created_at: float = field(default_factory=time.monotonic)
    """On the monotonic clock."""
    ready_since: float | None = None
    """On the monotonic clock."""
    stats: dict[str, Any] = field(default_factory=dict)
    """Answer to the latest ping."""
    link: ReplicaLink | None = None

    @property
    def id(self) -> str:
        return self.launched.spec.id if self.launched else ""

    @property
    def is_draining(self) -> bool:
        return self.state is ReplicaState.DRAINING

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
        self, launcher: Launcher, timeouts: ReplicaTimeouts, on_ready: Callable[[], None]
    ) -> None:
        """Runs the replica until it has exited. Raises MaasError for an unexpected end.

        If the task is cancelled, the process keeps running: a failure of control must not stop
        replicas that serve.
        """
        try:
            await self._run(launcher, timeouts, on_ready)
        except _Exited as exited:
            if not self.is_draining:
                raise self._exit_error(launcher, exited.status) from None
        finally:
            task = asyncio.current_task()
            if self.link is not None:
                self.link.close()
                self.link = None
            if self.launched is not None and not (task and task.cancelling()):
                self.launched.process.send_signal(signal.SIGKILL)
                await self.launched.process.exited()
                launcher.forget(self.id)

    async def _run(
        self, launcher: Launcher, timeouts: ReplicaTimeouts, on_ready: Callable[[], None]
    ) -> None:
        if self.launched is None:
            self.launched = await launcher.start(self.template)
        if self.is_draining:
            return
        spec, process = self.launched.spec, self.launched.process
        await _while_running(process, self._wait_until_ready(spec, timeouts))
        if self.state is ReplicaState.STARTING:
            self.state = ReplicaState.READY
            self.ready_since = time.monotonic()
            on_ready()
        await _while_running(process, self._monitor(spec, timeouts))

    async def drain(self, drain_s: float) -> None:
        """Sends SIGTERM, so that the replica finishes accepted requests and exits; kills it after
        `drain_s` and KILL_AFTER_DRAIN_S."""
        if self.launched is None:
            return
        process = self.launched.process
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(drain_s + KILL_AFTER_DRAIN_S):
                await process.exited()
        except TimeoutError:
            process.send_signal(signal.SIGKILL)
            await process.exited()

    async def _wait_until_ready(self, spec: ReplicaSpec, timeouts: ReplicaTimeouts) -> None:
        """Connects, pings, and sends the example; returns when all are answered."""
        try:
            async with asyncio.timeout(timeouts.ready_s):
                link = await self._connect(spec.socket)
                await self._ping(link, timeouts.hang_s)
                tensors, rows, _ = json_to_tensors(spec.signature, spec.signature.example)
                deadline = time.monotonic() + timeouts.ready_s
                await link.predict(spec.signature, tensors, rows, deadline, Priority.PROOF)
        except TimeoutError:
            raise DeadlineExceeded(
                f"replica {spec.id} was not ready after {timeouts.ready_s:g} s"
            ) from None

    async def _monitor(self, spec: ReplicaSpec, timeouts: ReplicaTimeouts) -> None:
        """Pings the replica forever; raises ReplicaHung if it does not answer."""
        while True:
            await asyncio.sleep(PING_EVERY_S)
            if self.is_draining:
                continue
            try:
                async with asyncio.timeout(timeouts.hang_s):
                    link = self.link
                    if link is None or not link.is_open:
                        link = await self._connect(spec.socket)
                    await self._ping(link, timeouts.hang_s)
            except TimeoutError:
                raise ReplicaHung(
                    f"replica {self.id} did not answer for {timeouts.hang_s:g} s"
                ) from None
            except ReplicaLost:
                continue  # the connection broke; the next ping reconnects unless it has exited

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
            raise ReplicaHung(f"replica {self.id} spent more than {timeout_s:g} s on one batch")

    def _exit_error(self, launcher: Launcher, status: int | None) -> MaasError:
        """The error that the replica reported, else one with its exit status and last log lines."""
        error = launcher.failure(self.id)
        if error is not None:
            return error
        if status is None:
            message = f"replica {self.id} exited"
        elif status < 0:
            name = signal.strsignal(-status)
            message = f"replica {self.id} was killed by signal {-status} ({name})"
        else:
            message = f"replica {self.id} exited with status {status}"
        lines = launcher.last_lines(self.id)
        return ReplicaLost(f"{message}; its log ends: {lines}" if lines else message)


class _Exited(Exception):
    """The process has exited."""

    def __init__(self, status: int | None) -> None:
        super().__init__(status)
        self.status = status


async def _while_running(process: Process, work: Coroutine[Any, Any, None]) -> None:
    """Waits for `work`; raises _Exited as soon as the process has exited."""
    task = asyncio.ensure_future(work)
    exited = asyncio.ensure_future(process.exited())
    try:
        await asyncio.wait({task, exited}, return_when=asyncio.FIRST_COMPLETED)
        if task.done() and isinstance(task.exception(), ReplicaLost):
            # The connection breaks a moment before the exit status is known.
            await asyncio.wait({exited}, timeout=EXIT_NOTICE_S)
        if exited.done():
            raise _Exited(exited.result())
        task.result()
    finally:
        task.cancel()
        exited.cancel()
        await asyncio.gather(task, exited, return_exceptions=True)
