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
from collections.abc import Iterable
from random import choices

from maas.domain.errors import (
    BodyTooLarge,
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
from maas.serving.call import Call, fail_call
from maas.serving.codec import JsonCodec
from maas.serving.dispatch import ReplicaLink
from maas.serving.generation_call import GenerationCall
from maas.serving.messages import MAX_FRAME_BYTES

log = logging.getLogger(__name__)

HOLD_SECONDS = 5.0
"""How long calls wait for a replica after the last one went away."""
RECONNECT_SECONDS = 0.02
SWEEP_SECONDS = 0.1
BYTES_IN_FLIGHT = 256 << 20
"""How much the calls of one link, and those that a route holds, may carry together. One that
carries more is taken while there is no other."""
LARGEST_CALL_BYTES = MAX_FRAME_BYTES - (1 << 20)  # a frame holds more than the tensors


class LiveRoute:
    """One variant of a deployment, with the links to the replicas that have it loaded."""

    def __init__(
        self,
        deployment: str,
        route: Route,
        queue_limit: int,
        owing: set[ReplicaLink] | None = None,
    ) -> None:
        """`owing` holds the links whose replicas owe an answer."""
        self._owing = owing
        self.deployment = deployment
        self.version = route.version
        self.variant = route.variant
        self.signature: Signature = route.signature
        self.codec = JsonCodec(route.signature)
        self.travels_alone = route.signature.has_bytes
        self.task = route.task
        self.published_at = route.published_at
        self.weight = route.weight
        self.queue_limit = queue_limit
        self.reason = ""
        self.ok_counters: memoryview | None = None
        """For whoever counts the answers; here because it is needed on every one."""
        self._sockets: frozenset[str] = frozenset()
        self._links: dict[str, ReplicaLink] = {}
        """To the replicas that the snapshot names."""
        self._leaving: set[ReplicaLink] = set()
        """To those that it no longer names, and that still owe answers."""
        self._connecting: dict[str, asyncio.Task[None]] = {}
        self._held: deque[Call] = deque()
        self._held_bytes = 0
        self._down_since = time.monotonic()
        """Since when no replica takes calls, if none does."""
        self._retired = False
        self._heir: LiveRoute | None = None

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
            if self._heir is not None:  # it was replaced while the call was being read
                self._heir.submit(call)
            else:
                self._hold(call)
            return
        wait = link.rows_in_flight * link.seconds_per_row
        if link.in_flight >= self.queue_limit:
            many = f"{link.in_flight} requests waiting, which is its limit"
            raise Overloaded(f"{self.deployment} has {many}", retry_after=max(1.0, wait))
        if wait > 0.001 and wait > call.deadline - time.monotonic():
            raise Overloaded(
                f"{self.deployment} would answer in about {wait:.1f} s, after the deadline",
                retry_after=max(1.0, wait),
            )
        if link.bytes_in_flight + call.size > BYTES_IN_FLIGHT:
            link = self._link_with_room(call)
        link.submit(call)

    def links(self) -> Iterable[ReplicaLink]:
        """To the replicas that the snapshot names."""
        return self._links.values()

    def cancel(self, call: Call) -> None:
        """Nobody waits for `call` any more."""
        if call.link is not None:
            call.link.cancel(call)
            return
        route: LiveRoute | None = self
        while route is not None:
            if call in route._held:
                route._unhold(call)
                return
            route = route._heir

    def generate(self, call: GenerationCall) -> None:
        """As `submit`, for text that comes in pieces."""
        self.submit(call)

    def cancel_generation(self, call: GenerationCall) -> None:
        """Nobody reads `call` any more: it frees its place in the engine within a step. No more is
        written; its ending, with the true counts, follows in a later tick."""
        if not call.stop():
            self.cancel(call)

    def _least_busy(self) -> ReplicaLink | None:
        best = None
        fewest = 0
        for link in self._links.values():
            if link.usable:
                busy = len(link.pending) + len(link.outgoing)
                if best is None or busy < fewest:
                    best, fewest = link, busy
        return best

    def _link_with_room(self, call: Call) -> ReplicaLink:
        """For a call whose bytes are too many for the least busy link."""
        if call.size > LARGEST_CALL_BYTES:
            raise BodyTooLarge(
                f"a request of {call.size} bytes of tensors; at most {LARGEST_CALL_BYTES} fit"
            )
        links = (link for link in self._links.values() if link.usable)
        link = min(
            (link for link in links if link.in_flight < self.queue_limit),
            key=lambda link: link.bytes_in_flight,
        )
        self._check_room(link.bytes_in_flight, call)
        return link

    def _check_room(self, taken: int, call: Call) -> None:
        if taken and taken + call.size > BYTES_IN_FLIGHT:
            full = f"{taken >> 20} MiB of requests waiting, of at most {BYTES_IN_FLIGHT >> 20}"
            raise Overloaded(f"{self.deployment} has {full}", retry_after=1.0)

    def _hold(self, call: Call) -> None:
        down = time.monotonic() - self._down_since
        if self._retired or down > HOLD_SECONDS:
            if any(link.is_congested for link in self._links.values()):
                silent = f"has taken no request for {down:.1f} s"
                raise Overloaded(f"{self.deployment} {silent}", retry_after=1.0)
            why = f": {self.reason}" if self.reason else ""
            raise Unavailable(f"{self.deployment} has no ready replica{why}", retry_after=1.0)
        if len(self._held) >= self.queue_limit:
            many = f"{len(self._held)} requests waiting for a replica"
            raise Overloaded(f"{self.deployment} has {many}", retry_after=1.0)
        self._check_room(self._held_bytes, call)
        self._held.append(call)
        self._held_bytes += call.size

    def _unhold(self, call: Call) -> None:
        self._held.remove(call)
        self._held_bytes -= call.size

    def _release_held(self) -> None:
        held, self._held = self._held, deque()
        self._held_bytes = 0
        for call in held:
            self._resubmit(call)

    def _resubmit(self, call: Call) -> None:
        route = self
        while route._heir is not None:
            route = route._heir
        try:
            route.submit(call)
        except MaasError as error:
            fail_call(call, error)

    def sweep(self, now: float) -> None:
        """End every call whose deadline has passed, and those held for too long."""
        for link in (*self._links.values(), *self._leaving):
            for call in [call for call in link.pending.values() if call.deadline <= now]:
                call.expire(link, now)
        if self._held:
            given_up = now - self._down_since > HOLD_SECONDS
            for call in [c for c in self._held if given_up or c.deadline <= now]:
                self._unhold(call)
                if call.deadline <= now:
                    fail_call(call, DeadlineExceeded())
                else:
                    self._resubmit(call)

    # -- replicas ---------------------------------------------------------------------------

    def update(self, route: Route, queue_limit: int, reason: str) -> None:
        self.weight = route.weight
        self.queue_limit = queue_limit
        self.reason = reason
        known, self._sockets = self._sockets, frozenset(route.sockets)
        for path in self._sockets - known:
            self._start_connecting(path)
        for path in known - self._sockets:
            self._leave(path)

    def retire(self, heir: LiveRoute | None, why: MaasError) -> None:
        """Take no more calls and let the replicas finish. `heir`, a route of the same signature,
        gets the calls that wait and those that the replicas lose; without one they end, those
        that wait with `why`."""
        self._retired = True
        self._heir = heir
        self._sockets = frozenset()
        for path in list(self._links):
            self._leave(path)
        held, self._held = self._held, deque()
        self._held_bytes = 0
        for call in held:
            if heir is not None:
                self._resubmit(call)
            else:
                fail_call(call, why)

    @property
    def is_gone(self) -> bool:
        """Whether a retired route owes no answer any more."""
        return not self._links and not self._leaving

    def _leave(self, path: str) -> None:
        link = self._links.get(path)
        if link is not None:
            link.leave()
            del self._links[path]
            self._leaving.add(link)

    def _start_connecting(self, path: str) -> None:
        if path not in self._connecting:
            self._connecting[path] = asyncio.ensure_future(self._connect(path))

    async def _connect(self, path: str) -> None:
        """Try until it works or the snapshot no longer names the replica."""
        try:
            while path in self._sockets:
                try:
                    link = await ReplicaLink.connect(
                        path, self._link_closed, self._link_usable, self._owing
                    )
                except OSError:
                    link = None
                if link is not None and path not in self._sockets:
                    link.close()
                elif link is not None and link.is_open:
                    self._links[path] = link
                    self._release_held()
                    return
                else:
                    await asyncio.sleep(RECONNECT_SECONDS)
        finally:
            # Here and not when the task is done: by then the snapshot may name the path again.
            del self._connecting[path]

    def _link_usable(self, link: ReplicaLink) -> None:
        """A link takes calls again, or takes none any more."""
        if link not in self._links.values():
            return
        if link.usable:
            self._release_held()
        elif not self.is_ready:
            self._down_since = time.monotonic()

    def _link_closed(self, link: ReplicaLink, lost: list[Call]) -> None:
        self._leaving.discard(link)
        now = time.monotonic()
        for path, known in list(self._links.items()):
            if known is link:
                del self._links[path]
                if not link.going_away:
                    self._start_connecting(path)
                    if not self.is_ready:  # even if it took no calls before: another will come
                        self._down_since = now
        for call in lost:
            if call.may_be_repeated and call.deadline > now:
                self._resubmit(call)
            else:
                fail_call(call, ReplicaLost(retry_after=1.0))


class LiveDeployment:
    """A callable name and its routes."""

    def __init__(self, name: str, owing: set[ReplicaLink] | None = None) -> None:
        self.name = name
        self._owing = owing
        self.model = ""
        self.reason = ""
        self.routes: list[LiveRoute] = []
        self._retired: list[LiveRoute] = []
        """Those whose replicas still owe answers."""

    def update(self, new: DeploymentRoutes) -> None:
        self.model = new.model
        self.reason = new.reason
        known = {(r.version, r.variant, _identity(r.signature)): r for r in self.routes}
        routes = []
        for route in new.routes:
            live = known.pop((route.version, route.variant, _identity(route.signature)), None)
            routes.append(live or LiveRoute(self.name, route, new.queue_limit, self._owing))
        self.routes = routes
        for to_update, route in zip(routes, new.routes, strict=True):
            to_update.update(route, new.queue_limit, new.reason)
        for old in known.values():
            why = Unavailable(f"{self.name} was replaced meanwhile", retry_after=1.0)
            self._retired.append(old)
            old.retire(self._heir_of(old), why)

    def _heir_of(self, old: LiveRoute) -> LiveRoute | None:
        """Who can answer the calls of `old`: the same version if it is there, else by weight."""
        able = [route for route in self.routes if route.signature == old.signature]
        return max(able, key=lambda r: (r.version == old.version, r.weight), default=None)

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
        routes, self.routes = self.routes, []
        self._retired += routes
        for route in routes:
            route.retire(None, NotFound(f"deployment {self.name} was deleted"))

    def sweep(self, now: float) -> None:
        for route in (*self.routes, *self._retired):
            route.sweep(now)
        self._retired = [route for route in self._retired if not route.is_gone]

    @property
    def is_gone(self) -> bool:
        """Whether a removed deployment owes no answer any more."""
        return not self._retired


class Router:
    """All deployments that the snapshot names."""

    def __init__(self) -> None:
        self.deployments: dict[str, LiveDeployment] = {}
        self.default: str | None = None
        self._owing: set[ReplicaLink] = set()
        self._removed: list[LiveDeployment] = []
        """Those whose replicas still owe answers."""
        self._timer = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def apply(self, snapshot: Snapshot) -> None:
        self.default = snapshot.default
        names = {d.name for d in snapshot.deployments}
        for name in set(self.deployments) - names:
            removed = self.deployments.pop(name)
            removed.remove()
            self._removed.append(removed)
        for new in snapshot.deployments:
            live = self.deployments.get(new.name)
            if live is None:
                live = self.deployments[new.name] = LiveDeployment(new.name, self._owing)
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

    def is_working(self) -> bool:
        """Whether any replica owes an answer."""
        return bool(self._owing)

    def close(self) -> None:
        self._timer.cancel()
        for live in self.deployments.values():
            live.remove()

    def _sweep(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)
        now = time.monotonic()
        for live in (*self.deployments.values(), *self._removed):
            live.sweep(now)
        self._removed = [live for live in self._removed if not live.is_gone]


def _identity(signature: Signature) -> str:
    return repr(signature)
