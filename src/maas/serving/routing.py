"""Which replica answers a call: deployments, their weighted routes, and the links behind them.

A router follows the routing snapshot. It keeps one link per ready replica, sends each call to the
least busy one, gives a call that a dying replica took one second chance elsewhere, and holds calls
for a moment while a deployment has no replica, so that a crash or an update costs a little
latency and no answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from random import choices

from maas.domain.errors import (
    DeadlineExceeded,
    MaasError,
    NotFound,
    Overloaded,
    ReplicaLost,
    Unavailable,
)
from maas.domain.names import shown
from maas.domain.signature import Signature
from maas.domain.snapshot import DeploymentRoutes, Route, Snapshot
from maas.serving.codec import JsonCodec
from maas.serving.dispatch import Call, ReplicaLink

log = logging.getLogger(__name__)

HOLD_SECONDS = 5.0
"""How long calls wait for a replica after the last one went away."""
RECONNECT_SECONDS = 0.02
SWEEP_SECONDS = 0.1
MAX_ATTEMPTS = 2


class LiveRoute:
    """One variant of a deployment, with the links to the replicas that have it loaded."""

    def __init__(self, deployment: str, route: Route, queue_limit: int) -> None:
        self.deployment = deployment
        self.version = route.version
        self.variant = route.variant
        self.signature: Signature = route.signature
        self.codec = JsonCodec(route.signature)
        self.travels_alone = route.signature.has_bytes
        self.weight = route.weight
        self.queue_limit = queue_limit
        self.reason = ""
        self.ok_counters: memoryview | None = None
        """For whoever counts the answers; here because it is needed on every one."""
        self._sockets: frozenset[str] = frozenset()
        self._links: dict[str, ReplicaLink] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._held: deque[Call] = deque()
        self._down_since = time.monotonic()
        self._retired = False

    # -- calls ------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        return any(link.usable for link in self._links.values())

    def submit(self, call: Call) -> None:
        """Send `call`, or hold it for a replica that is about to come.

        Raises Overloaded, with the seconds after which to try again, if it could not be answered
        by its deadline, and Unavailable if nobody can answer it.
        """
        link = self._least_busy()
        if link is None:
            self._hold(call)
            return
        wait = link.rows_in_flight * link.seconds_per_row
        if link.in_flight >= self.queue_limit:
            raise Overloaded(
                f"{self.deployment} has {link.in_flight} requests waiting, which is its limit",
                retry_after=max(1.0, wait),
            )
        if wait > 0.001 and wait > call.deadline - time.monotonic():
            raise Overloaded(
                f"{self.deployment} would answer in about {wait:.1f} s, after the deadline",
                retry_after=max(1.0, wait),
            )
        link.submit(call)

    def cancel(self, call: Call) -> None:
        """Nobody waits for `call` any more."""
        if call.link is not None:
            call.link.cancel(call)
        elif call in self._held:
            self._held.remove(call)

    def _least_busy(self) -> ReplicaLink | None:
        best = None
        fewest = 0
        for link in self._links.values():
            if link.usable:
                busy = len(link.pending) + len(link.outgoing)
                if best is None or busy < fewest:
                    best, fewest = link, busy
        return best

    def _hold(self, call: Call) -> None:
        down = time.monotonic() - self._down_since
        if self._retired or down > HOLD_SECONDS:
            why = f": {self.reason}" if self.reason else ""
            raise Unavailable(f"{self.deployment} has no ready replica{why}", retry_after=1.0)
        if len(self._held) >= self.queue_limit:
            raise Overloaded(
                f"{self.deployment} has {len(self._held)} requests waiting for a replica",
                retry_after=1.0,
            )
        self._held.append(call)

    def _release_held(self) -> None:
        held, self._held = self._held, deque()
        for call in held:
            self._resubmit(call)

    def _resubmit(self, call: Call) -> None:
        try:
            self.submit(call)
        except MaasError as error:
            call.failed(error)

    def sweep(self, now: float) -> None:
        """End every call whose deadline has passed, and those held for too long."""
        for link in self._links.values():
            late = [call for call in link.pending.values() if call.deadline <= now]
            for call in late:
                link.cancel(call)
                call.failed(DeadlineExceeded())
        if self._held:
            given_up = now - self._down_since > HOLD_SECONDS
            for call in [c for c in self._held if given_up or c.deadline <= now]:
                self._held.remove(call)
                if call.deadline <= now:
                    call.failed(DeadlineExceeded())
                else:
                    self._resubmit(call)

    # -- replicas ---------------------------------------------------------------------------

    def update(self, route: Route, queue_limit: int, reason: str) -> None:
        self.weight = route.weight
        self.queue_limit = queue_limit
        self.reason = reason
        known, self._sockets = self._sockets, frozenset(route.sockets)
        for path in self._sockets - known:
            task = asyncio.ensure_future(self._connect(path))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)
        for path in known - self._sockets:
            link = self._links.get(path)
            if link is not None:
                link.leave()

    def retire(self) -> list[Call]:
        """Take no more calls, let the replicas finish, and hand over whoever still waits."""
        self._retired = True
        self._sockets = frozenset()
        for link in list(self._links.values()):
            link.leave()
        held = list(self._held)
        self._held.clear()
        return held

    async def _connect(self, path: str) -> None:
        """Try until it works or the snapshot no longer names the replica."""
        while path in self._sockets:
            try:
                link = await ReplicaLink.connect(path, self._link_closed)
            except OSError:
                await asyncio.sleep(RECONNECT_SECONDS)
                continue
            if path not in self._sockets:
                link.close()
                return
            self._links[path] = link
            self._release_held()
            return

    def _link_closed(self, link: ReplicaLink, lost: list[Call]) -> None:
        for path, known in list(self._links.items()):
            if known is link:
                del self._links[path]
                if path in self._sockets and not link.going_away:
                    task = asyncio.ensure_future(self._connect(path))
                    self._connecting.add(task)
                    task.add_done_callback(self._connecting.discard)
        if not self.is_ready:
            self._down_since = time.monotonic()
        now = time.monotonic()
        for call in lost:
            if call.attempts < MAX_ATTEMPTS and call.deadline > now:
                self._resubmit(call)
            else:
                call.failed(ReplicaLost(retry_after=1.0))


class LiveDeployment:
    """A callable name and its routes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.model = ""
        self.reason = ""
        self.routes: list[LiveRoute] = []

    def update(self, new: DeploymentRoutes) -> None:
        self.model = new.model
        self.reason = new.reason
        known = {(r.version, r.variant, _identity(r.signature)): r for r in self.routes}
        self.routes = []
        for route in new.routes:
            key = (route.version, route.variant, _identity(route.signature))
            live = known.pop(key, None) or LiveRoute(self.name, route, new.queue_limit)
            live.update(route, new.queue_limit, new.reason)
            self.routes.append(live)
        for old in known.values():
            self._take_over(old)

    def _take_over(self, old: LiveRoute) -> None:
        for call in old.retire():
            heir = next((r for r in self.routes if r.signature == old.signature), None)
            if heir is None:
                call.failed(Unavailable(f"{self.name} was replaced meanwhile", retry_after=1.0))
                continue
            try:
                heir.submit(call)
            except MaasError as error:
                call.failed(error)

    def pick(self, version: int | None = None) -> LiveRoute:
        """A route by weight, or the one of `version`; raises NotFound or Unavailable."""
        routes = self.routes
        if version is not None:
            for route in routes:
                if route.version == version:
                    return route
            raise NotFound(f"{self.name} does not serve version {version}")
        if len(routes) == 1:
            return routes[0]
        # A target whose replicas are all away leaves its share to the others.
        ready = [route for route in routes if route.weight and route.is_ready]
        candidates = ready or [route for route in routes if route.weight]
        if not candidates:
            why = f": {self.reason}" if self.reason else ""
            raise Unavailable(f"{self.name} has no ready replica{why}", retry_after=1.0)
        return choices(candidates, [route.weight for route in candidates])[0]

    def remove(self) -> None:
        for route in self.routes:
            for call in route.retire():
                call.failed(NotFound(f"deployment {self.name} was deleted"))


class Router:
    """All deployments that the snapshot names."""

    def __init__(self) -> None:
        self.deployments: dict[str, LiveDeployment] = {}
        self.default: str | None = None
        self._timer = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def apply(self, snapshot: Snapshot) -> None:
        self.default = snapshot.default
        names = {d.name for d in snapshot.deployments}
        for name in set(self.deployments) - names:
            self.deployments.pop(name).remove()
        for new in snapshot.deployments:
            live = self.deployments.get(new.name)
            if live is None:
                live = self.deployments[new.name] = LiveDeployment(new.name)
            live.update(new)

    def get(self, name: str | None) -> LiveDeployment:
        """The deployment `name`, or the default one; raises NotFound."""
        if name is None:
            name = self.default
            if name is None:
                raise NotFound("there is no default deployment; call /predict/NAME")
        live = self.deployments.get(name)
        if live is None:
            raise NotFound(f"there is no deployment {shown(name)}")
        return live

    def close(self) -> None:
        self._timer.cancel()
        for live in self.deployments.values():
            live.remove()

    def _sweep(self) -> None:
        now = time.monotonic()
        for live in self.deployments.values():
            for route in live.routes:
                route.sweep(now)
        self._timer = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)


def _identity(signature: Signature) -> str:
    return repr(signature)
