"""The reconciler: makes the actual state equal to the desired state and writes the snapshot.

It is level-triggered: every step compares all deployments with all replicas and does what is
missing, so it does not matter which event woke it or which events were lost.

A deployment has a desired plan and an active plan, which has the traffic. They differ during an
update: the desired plan becomes active when all its replicas have answered a real request, and only
then do the other replicas drain.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from maas.control.reconciliation.launcher import Launcher
from maas.control.reconciliation.plans import DeploymentPlan, Planner, ReplicaGroup
from maas.control.reconciliation.replica_lifecycle import LiveReplica, ReplicaTimeouts
from maas.control.reconciliation.snapshot_file import SnapshotFile
from maas.control.reconciliation.state import FailureRecord, ReconcilerState, ServedDeployment
from maas.domain.deployments import Deployment, ReplicaState
from maas.domain.errors import MaasError, NotFound, Unavailable
from maas.domain.keys import Key
from maas.domain.names import did_you_mean, shown
from maas.domain.snapshot import DeploymentRoutes, Snapshot, TargetRoute
from maas.storage.deployments import Deployments
from maas.storage.keys import Keys
from maas.telemetry import FIELDS

log = logging.getLogger(__name__)

STEP_EVERY_S = 0.5
ADOPT_WITHIN_S = 2.0
"""Time for replicas of the previous control process to answer before the first snapshot."""
ROUTE_GRACE_S = 0.2
"""Time from a snapshot without a replica to its SIGTERM; gateways poll every 50 ms."""
LONGEST_BACKOFF_S = 60.0
HEALTHY_AFTER_S = 60.0
"""A crash of a replica that was ready for this long clears the record of earlier failures."""


@dataclass(frozen=True)
class ReconcilerTimeouts:
    """Timeouts of replicas, and the pause after a crash, in seconds."""

    ready_s: float
    hang_s: float
    backoff_s: float
    drain_s: float


class Reconciler:
    """Runs on one event loop. The rest of control calls `changed` after every change."""

    def __init__(
        self,
        launcher: Launcher,
        deployments: Deployments,
        keys: Keys,
        planner: Planner,
        snapshot_file: SnapshotFile,
        timeouts: ReconcilerTimeouts,
    ) -> None:
        self.state = ReconcilerState()
        self._launcher = launcher
        self._deployments = deployments
        self._key_store = keys
        self._planner = planner
        self._file = snapshot_file
        self._timeouts = timeouts
        self._keys: tuple[Key, ...] = ()
        self._wake = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._stale = True
        """Whether the database may have changes that this object has not read."""
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()

    # -- for the rest of control ------------------------------------------------------------

    async def start(self) -> None:
        """Reads the desired state, adopts running replicas, and writes the first snapshot."""
        active = self._file.read_active()
        await self._reload(active)
        for launched in await self._launcher.find():
            self._track(LiveReplica(launched.spec, launched.spec.digest, launched))
        groups = self._groups()
        adopted = [r for r in self.state.replicas if r.digest in groups]
        if adopted:
            until = time.monotonic() + ADOPT_WITHIN_S
            while time.monotonic() < until and any(
                r in self.state.replicas and not r.is_ready for r in adopted
            ):
                await asyncio.sleep(0.01)
            log.info("adopting %d of the replicas that were running", len(adopted))
        self._step()

    async def run(self) -> None:
        """Reconciles until the task is cancelled."""
        while not self._stopping:
            try:
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            if self._stale:
                await self._try_reload()
            if not self._stopping:
                self._step()

    async def changed(self) -> None:
        """Applies a change of deployments or keys. On return the snapshot has it.

        If the database is unavailable, the change follows when it is back.
        """
        self._stale = True
        await self._try_reload()
        if not self._stopping:
            self._step()
        self._wake.set()

    def clear_failures(self, name: str) -> None:
        """Forgets the failures of a deployment, so that the next step starts its replicas."""
        for digest, failure in list(self.state.failures.items()):
            if failure.deployment == name:
                del self.state.failures[digest]

    async def stop(self) -> None:
        """Drains all replicas; returns when none is left."""
        self._stopping = True
        self._wake.set()
        for replica in self.state.replicas:
            replica.state = ReplicaState.DRAINING
            self._launcher.retire(replica.id)
            self._spawn(replica.drain(self._timeouts.drain_s))
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def ready_replica(self, name: str) -> tuple[ReplicaGroup, LiveReplica]:
        """The replica group with the highest weight that has a ready replica, and that replica.

        Raises NotFound or Unavailable.
        """
        served = self.state.served.get(name)
        if served is None:
            hint = did_you_mean(name, self.state.served)
            raise NotFound(f"there is no deployment {shown(name)}{hint}")
        for group in sorted(served.active.groups, key=lambda g: -g.target.weight):
            ready = self.state.ready(group)
            if ready:
                return group, min(ready, key=lambda r: int(r.stats.get("queued", 0)))
        reason = self.state.reason(served)
        raise Unavailable(f"deployment {name} has no ready replica: {reason}", retry_after=1.0)

    # -- desired state ----------------------------------------------------------------------

    async def _try_reload(self) -> None:
        try:
            await self._reload({})
        except MaasError as error:
            log.warning("the desired state cannot be read: %s", error)

    async def _reload(self, active: dict[str, Deployment]) -> None:
        """`active`: revisions that had the traffic under the previous control process."""
        async with self._reloading:
            self._stale = False
            try:
                desired, routed, keys = await asyncio.to_thread(self._read, active)
            except BaseException:
                self._stale = True
                raise
            self._keys = keys
            self._apply_plans(desired, routed)

    def _read(
        self, active: dict[str, Deployment]
    ) -> tuple[dict[str, DeploymentPlan], dict[str, DeploymentPlan], tuple[Key, ...]]:
        """Desired plans and routed plans, by name, and the keys that are not revoked."""
        keys = tuple(k for k in self._key_store.list() if k.revoked_at is None)
        desired = {d.name: self._planner.plan(d) for d in self._deployments.list()}
        routed = {name: self._planner.plan(d) for name, d in active.items()}
        return desired, {name: p for name, p in routed.items() if not p.problem}, keys

    def _apply_plans(
        self, desired: dict[str, DeploymentPlan], routed: dict[str, DeploymentPlan]
    ) -> None:
        previous, self.state.served = self.state.served, {}
        for name, plan in desired.items():
            served = previous.get(name)
            if served is not None and served.desired == plan:
                self.state.served[name] = served
                continue
            active = served.active if served is not None else routed.get(name, plan)
            self.state.served[name] = ServedDeployment(plan, plan if active == plan else active)

    # -- one step ---------------------------------------------------------------------------

    def _step(self) -> None:
        groups = self._groups()
        self._start_missing(groups)
        self._switch()
        surplus = self._mark_surplus(self._groups())
        self._publish()
        for replica in surplus:
            self._spawn(self._drain(replica))

    def _groups(self) -> dict[str, tuple[ReplicaGroup, int]]:
        """Every replica group of a desired or active plan and its number of replicas, by digest."""
        groups: dict[str, tuple[ReplicaGroup, int]] = {}
        for served in self.state.served.values():
            for group in (*served.desired.groups, *served.active.groups):
                _, count = groups.get(group.digest, (group, 0))
                groups[group.digest] = (group, max(count, group.count))
        return groups

    def _start_missing(self, groups: dict[str, tuple[ReplicaGroup, int]]) -> None:
        now = time.monotonic()
        for digest in set(self.state.failures) - set(groups):
            del self.state.failures[digest]
        for digest, (group, count) in groups.items():
            present = sum(r.digest == digest and not r.is_draining for r in self.state.replicas)
            missing = count - present
            failure = self.state.failures.get(digest)
            if failure is not None:
                if now < failure.not_before:
                    continue
                if failure.never_ready:
                    # Starts a single replica until one has become ready.
                    missing = min(missing, 1 - (present - len(self.state.ready(group))))
            for _ in range(missing):
                self._track(LiveReplica(group.template, digest))

    def _switch(self) -> None:
        """Makes every desired plan active that can take the traffic."""
        for served in self.state.served.values():
            if served.is_updating and self._may_switch(served):
                served.active = served.desired
                log.info(
                    "%s: revision %d gets the traffic",
                    served.desired.deployment.name,
                    served.desired.deployment.revision,
                )

    def _may_switch(self, served: ServedDeployment) -> bool:
        """Whether the desired plan is complete, or answers while the active one does not."""
        if self.state.is_complete(served.desired):
            return True
        return self.state.answers(served.desired) and not self.state.answers_partly(served.active)

    def _mark_surplus(self, groups: dict[str, tuple[ReplicaGroup, int]]) -> list[LiveReplica]:
        """Marks surplus replicas as draining, so that the next snapshot leaves them out."""
        surplus = []
        counts: Counter[str] = Counter()
        oldest_first = sorted(
            (r for r in self.state.replicas if not r.is_draining),
            key=lambda r: (not r.is_ready, r.ready_since or 0.0),
        )
        for replica in oldest_first:
            _, count = groups.get(replica.digest, (None, 0))
            counts[replica.digest] += 1
            if counts[replica.digest] > count:
                surplus.append(replica)
        for replica in surplus:
            replica.state = ReplicaState.DRAINING
        return surplus

    def _publish(self) -> None:
        default = next(
            (n for n, s in self.state.served.items() if s.desired.deployment.default), None
        )
        deployments = tuple(self._routes(s) for s in self.state.served.values())
        try:
            self._file.write_active([s.active.deployment for s in self.state.served.values()])
            self._file.write(Snapshot(0, deployments, self._keys, default))
        except OSError as error:
            log.error("the routing snapshot cannot be written: %s", error.strerror)
            return
        now = time.monotonic()
        for served in self.state.served.values():
            complete = not served.is_updating and self.state.is_complete(served.desired)
            if not complete:
                served.complete_since = None
            elif served.complete_since is None:
                served.complete_since = now

    def _routes(self, served: ServedDeployment) -> DeploymentRoutes:
        deployment = served.active.deployment
        targets = tuple(self._target(group) for group in served.active.groups)
        answers = any(target.sockets for target in targets)
        return DeploymentRoutes(
            name=deployment.name,
            model=deployment.model,
            targets=targets,
            queue_limit=deployment.scaling.queue_limit,
            reason="" if answers else self.state.reason(served),
        )

    def _target(self, group: ReplicaGroup) -> TargetRoute:
        ready = self.state.ready(group)
        return TargetRoute(
            version=group.target.version,
            variant=group.template.variant,
            weight=group.target.weight,
            signature=group.template.signature,
            sockets=tuple(r.launched.spec.socket for r in ready if r.launched),
            task=group.task,
            published_at=group.published_at,
        )

    def _pause(self) -> float:
        """Seconds to the next step, if nothing wakes the reconciler before."""
        now = time.monotonic()
        starts = [f.not_before - now for f in self.state.failures.values() if f.not_before > now]
        return min([STEP_EVERY_S, *starts])

    # -- replicas ---------------------------------------------------------------------------

    def _track(self, replica: LiveReplica) -> None:
        self.state.replicas.append(replica)
        self._spawn(self._live(replica))

    async def _live(self, replica: LiveReplica) -> None:
        timeouts = ReplicaTimeouts(self._timeouts.ready_s, self._timeouts.hang_s)
        try:
            await replica.live(self._launcher, timeouts, lambda: self._became_ready(replica))
        except MaasError as error:
            self._record_failure(replica, error)
        except Exception as defect:
            log.exception("control failed to manage a replica", extra={FIELDS: _fields(replica)})
            self._record_failure(replica, MaasError(f"{type(defect).__name__} in control"))
        finally:
            self.state.replicas.remove(replica)
            self._wake.set()

    def _became_ready(self, replica: LiveReplica) -> None:
        failure = self.state.failures.get(replica.digest)
        if failure is not None:
            failure.reason = ""
            failure.never_ready = False
        log.info("replica is ready", extra={FIELDS: _fields(replica)})
        self._wake.set()

    def _record_failure(self, replica: LiveReplica, error: MaasError) -> None:
        """Records the reason and the time of the next start: at once after the first failure, then
        with exponential backoff."""
        now = time.monotonic()
        failure = self.state.failures.setdefault(
            replica.digest, FailureRecord(replica.template.deployment)
        )
        if replica.ready_since is not None and now - replica.ready_since >= HEALTHY_AFTER_S:
            failure.count = 0
        if replica.created_at > failure.failed_at:
            # Replicas that were started together and fail together count as one failure.
            failure.not_before = now + self._backoff(failure.count)
            failure.count += 1
            failure.failed_at = now
        failure.reason = f"{error.code}: {error.message}"
        failure.replica = replica.id
        failure.never_ready = replica.ready_since is None
        log.warning("replica failed: %s", failure.reason, extra={FIELDS: _fields(replica)})

    def _backoff(self, failures: int) -> float:
        """Seconds to wait before the next start after `failures` earlier failures."""
        if not failures:
            return 0.0
        return min(LONGEST_BACKOFF_S, self._timeouts.backoff_s * 2.0 ** (failures - 1))

    async def _drain(self, replica: LiveReplica) -> None:
        if replica.ready_since is not None:
            await asyncio.sleep(ROUTE_GRACE_S)
        self._launcher.retire(replica.id)
        await replica.drain(self._timeouts.drain_s)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _fields(replica: LiveReplica) -> dict[str, object]:
    return {
        "replica": replica.id,
        "deployment": replica.template.deployment,
        "version": replica.template.version,
        "variant": replica.template.variant,
    }
