"""Makes what runs equal to what shall run, and tells the gateways about it.

Level-triggered: every step looks at all deployments and all replicas and does what is missing, so
it does not matter which event woke it or which ones were lost.

A deployment has a plan that is wanted and a plan that is active, the one that gets the traffic.
They differ while an update is on its way: the wanted one becomes active when all its replicas have
answered a real request, and only then do the others drain.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from maas.control.reconciliation.launcher import Launcher
from maas.control.reconciliation.plans import DeploymentPlan, Planner, ReplicaGroup
from maas.control.reconciliation.replica_life import LiveReplica, ReplicaTimeouts
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
"""How long the first snapshot waits for replicas of a former control to answer."""
ROUTE_GRACE_S = 0.2
"""From a snapshot without a replica to its SIGTERM: gateways look for a new one every 50 ms."""
LONGEST_BACKOFF_S = 60.0
HEALTHY_AFTER_S = 60.0
"""A replica that served for so long starts over with a clean record when it crashes."""


@dataclass(frozen=True)
class ReconcilerTimeouts:
    """How long to wait for what, in seconds."""

    ready_s: float
    hang_s: float
    backoff_s: float
    drain_s: float


class Reconciler:
    """Runs on one event loop; `changed` is how the rest of control talks to it."""

    def __init__(
        self,
        launcher: Launcher,
        deployments: Deployments,
        keys: Keys,
        planner: Planner,
        snapshot_file: SnapshotFile,
        pace: ReconcilerTimeouts,
    ) -> None:
        self.state = ReconcilerState()
        self._launcher = launcher
        self._deployments = deployments
        self._key_store = keys
        self._planner = planner
        self._file = snapshot_file
        self._pace = pace
        self._keys: tuple[Key, ...] = ()
        self._wake = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._stale = True
        """The database may know more than we do."""
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()

    # -- for the rest of control ------------------------------------------------------------

    async def start(self) -> None:
        """Read what shall be, take over what runs, publish the first snapshot."""
        active = self._file.read_active()
        await self._reload(active)
        for launched in await self._launcher.find():
            self._track(LiveReplica(launched.spec, launched.spec.digest, launched))
        wanted = self._groups()
        adopted = [r for r in self.state.replicas if r.digest in wanted]
        if adopted:
            until = time.monotonic() + ADOPT_WITHIN_S
            while time.monotonic() < until and any(
                r in self.state.replicas and not r.is_ready for r in adopted
            ):
                await asyncio.sleep(0.01)
            log.info("adopting %d of the replicas that were running", len(adopted))
        self._step()

    async def run(self) -> None:
        """Reconciles until it is cancelled."""
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
        """Deployments or keys changed; when this returns the gateways' snapshot says so.

        If the database went away meanwhile, the change follows when it is back.
        """
        self._stale = True
        await self._try_reload()
        if not self._stopping:
            self._step()
        self._wake.set()

    def forgive(self, name: str) -> None:
        """Somebody put the deployment anew: try at once what failed before, without the record."""
        for digest, trouble in list(self.state.troubles.items()):
            if trouble.deployment == name:
                del self.state.troubles[digest]

    async def stop(self) -> None:
        """Drain all replicas; returns when none is left."""
        self._stopping = True
        self._wake.set()
        for replica in self.state.replicas:
            replica.state = ReplicaState.DRAINING
            self._launcher.retire(replica.id)
            self._spawn(replica.drain(self._pace.drain_s))
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def answering(self, name: str) -> tuple[ReplicaGroup, LiveReplica]:
        """The heaviest target of a deployment that has a ready replica, and that replica.

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
        why = self.state.reason(served)
        raise Unavailable(f"deployment {name} has no ready replica: {why}", retry_after=1.0)

    # -- desired state ----------------------------------------------------------------------

    async def _try_reload(self) -> None:
        try:
            await self._reload({})
        except MaasError as error:
            log.warning("the desired state cannot be read: %s", error)

    async def _reload(self, active: dict[str, Deployment]) -> None:
        """`active`: revisions that a former control routed to."""
        async with self._reloading:
            self._stale = False
            try:
                wanted, routed, keys = await asyncio.to_thread(self._read, active)
            except BaseException:
                self._stale = True
                raise
            self._keys = keys
            self._take_over({p.deployment.name: p for p in wanted}, routed)

    def _read(
        self, active: dict[str, Deployment]
    ) -> tuple[list[DeploymentPlan], dict[str, DeploymentPlan], tuple[Key, ...]]:
        keys = tuple(k for k in self._key_store.list() if k.revoked_at is None)
        wanted = [self._planner.plan(d) for d in self._deployments.list()]
        routed = {n: self._planner.plan(d) for n, d in active.items()}
        return wanted, {n: p for n, p in routed.items() if not p.problem}, keys

    def _take_over(
        self, wanted: dict[str, DeploymentPlan], routed: dict[str, DeploymentPlan]
    ) -> None:
        former, self.state.served = self.state.served, {}
        for name, plan in wanted.items():
            known = former.get(name)
            if known is not None and known.wanted == plan:
                self.state.served[name] = known
                continue
            active = known.active if known is not None else routed.get(name, plan)
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
        """Every group that shall have replicas, by digest, and how many."""
        found: dict[str, tuple[ReplicaGroup, int]] = {}
        for served in self.state.served.values():
            for group in (*served.wanted.groups, *served.active.groups):
                _, count = found.get(group.digest, (group, 0))
                found[group.digest] = (group, max(count, group.count))
        return found

    def _start_missing(self, groups: dict[str, tuple[ReplicaGroup, int]]) -> None:
        now = time.monotonic()
        for digest in set(self.state.troubles) - set(groups):
            del self.state.troubles[digest]
        for digest, (group, count) in groups.items():
            have = sum(r.digest == digest and r.is_wanted for r in self.state.replicas)
            missing = count - have
            trouble = self.state.troubles.get(digest)
            if trouble is not None:
                if now < trouble.not_before:
                    continue
                if trouble.never_ready:
                    # One that proves that it can start is enough before there are more.
                    missing = min(missing, 1 - (have - len(self.state.ready(group))))
            for _ in range(missing):
                self._track(LiveReplica(group.template, digest))

    def _switch(self) -> None:
        """Give the traffic to every plan that is ready for it."""
        for served in self.state.served.values():
            if served.is_updating and (
                self.state.is_complete(served.wanted)
                or (
                    not self.state.answers_somehow(served.active)
                    and self.state.answers(served.wanted)
                )
            ):
                served.active = served.wanted
                log.info("%s: revision %d gets the traffic", served.wanted.deployment.name,
                         served.wanted.deployment.revision)  # fmt: skip

    def _mark_surplus(self, groups: dict[str, tuple[ReplicaGroup, int]]) -> list[LiveReplica]:
        """Replicas that nobody needs any more; they leave the next snapshot."""
        surplus = []
        kept: dict[str, int] = {}
        oldest_first = sorted(
            (r for r in self.state.replicas if r.is_wanted),
            key=lambda r: (not r.is_ready, r.ready_since or 0.0),
        )
        for replica in oldest_first:
            _, count = groups.get(replica.digest, (None, 0))
            kept[replica.digest] = kept.get(replica.digest, 0) + 1
            if kept[replica.digest] > count:
                surplus.append(replica)
        for replica in surplus:
            replica.state = ReplicaState.DRAINING
        return surplus

    def _publish(self) -> None:
        default = next(
            (n for n, s in self.state.served.items() if s.wanted.deployment.default), None
        )
        routes = tuple(self._routes(s) for s in self.state.served.values())
        try:
            self._file.write_active([s.active.deployment for s in self.state.served.values()])
            self._file.write(Snapshot(0, routes, self._keys, default))
        except OSError as wrong:
            log.error("the routing snapshot cannot be written: %s", wrong.strerror)
            return
        now = time.monotonic()
        for served in self.state.served.values():
            complete = not served.is_updating and self.state.is_complete(served.wanted)
            if not complete:
                served.complete_since = None
            elif served.complete_since is None:
                served.complete_since = now

    def _routes(self, served: ServedDeployment) -> DeploymentRoutes:
        deployment = served.active.deployment
        routes = tuple(
            TargetRoute(
                version=group.target.version,
                variant=group.template.variant,
                weight=group.target.weight,
                signature=group.template.signature,
                sockets=tuple(
                    r.launched.spec.socket for r in self.state.ready(group) if r.launched
                ),
                task=group.task,
                published_at=group.published_at,
            )
            for group in served.active.groups
        )
        answers = any(route.sockets for route in routes)
        return DeploymentRoutes(
            name=deployment.name,
            model=deployment.model,
            targets=routes,
            queue_limit=deployment.scaling.queue_limit,
            reason="" if answers else self.state.reason(served),
        )

    def _pause(self) -> float:
        """Until the next step, unless something happens before."""
        now = time.monotonic()
        soon = [t.not_before - now for t in self.state.troubles.values() if t.not_before > now]
        return min([STEP_EVERY_S, *soon])

    # -- replicas ---------------------------------------------------------------------------

    def _track(self, replica: LiveReplica) -> None:
        self.state.replicas.append(replica)
        self._spawn(self._live(replica))

    async def _live(self, replica: LiveReplica) -> None:
        patience = ReplicaTimeouts(self._pace.ready_s, self._pace.hang_s)
        try:
            await replica.live(self._launcher, patience, lambda: self._became_ready(replica))
        except MaasError as error:
            self._note_failure(replica, error)
        except Exception as defect:
            log.exception("a replica's life failed", extra={FIELDS: _fields(replica)})
            self._note_failure(replica, MaasError(f"{type(defect).__name__} in control"))
        finally:
            self.state.replicas.remove(replica)
            self._wake.set()

    def _became_ready(self, replica: LiveReplica) -> None:
        trouble = self.state.troubles.get(replica.digest)
        if trouble is not None:
            trouble.reason = ""
            trouble.never_ready = False
        log.info("replica is ready", extra={FIELDS: _fields(replica)})
        self._wake.set()

    def _note_failure(self, replica: LiveReplica, error: MaasError) -> None:
        """Remember why, and when to try again: at once the first time, then ever later."""
        now = time.monotonic()
        trouble = self.state.troubles.setdefault(
            replica.digest, FailureRecord(replica.template.deployment)
        )
        if replica.ready_since is not None and now - replica.ready_since >= HEALTHY_AFTER_S:
            trouble.failures = 0
        if replica.born_at > trouble.failed_at:
            # Ten that were started together and fail together are one failure, not ten.
            pause = 0.0
            if trouble.failures:
                pause = min(LONGEST_BACKOFF_S, self._pace.backoff_s * 2.0 ** (trouble.failures - 1))
            trouble.not_before = now + pause
            trouble.failures += 1
            trouble.failed_at = now
        trouble.reason = f"{error.code}: {error.message}"
        trouble.replica = replica.id
        trouble.never_ready = replica.ready_since is None
        log.warning("replica failed: %s", trouble.reason, extra={FIELDS: _fields(replica)})

    async def _drain(self, replica: LiveReplica) -> None:
        if replica.ready_since is not None:
            await asyncio.sleep(ROUTE_GRACE_S)
        self._launcher.retire(replica.id)
        await replica.drain(self._pace.drain_s)

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
