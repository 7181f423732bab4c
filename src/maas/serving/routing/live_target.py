"""One target of a deployment: links to the replicas of a variant, and the choice among them.

A target sends each call to the least busy replica, repeats a call once on another replica if the
first one crashes, and holds calls for a moment while no replica takes any, so that a crash or an
update costs a little latency and no answer.
"""

from __future__ import annotations

import asyncio
import time

from maas.domain.errors import (
    BodyTooLarge,
    DeadlineExceeded,
    MaasError,
    Overloaded,
    ReplicaLost,
    Unavailable,
)
from maas.domain.signature import Signature
from maas.domain.snapshot import TargetRoute
from maas.serving.routing.call import Call, fail_call
from maas.serving.routing.dispatch import ReplicaLink
from maas.serving.routing.generation_call import GenerationCall
from maas.serving.routing.held_calls import HeldCalls
from maas.serving.wire.json_codec import JsonCodec
from maas.serving.wire.messages import MAX_FRAME_BYTES

HOLD_SECONDS = 5.0
"""How long calls wait for a replica after the last one disconnects."""
RECONNECT_SECONDS = 0.02
BYTES_IN_FLIGHT = 256 << 20
"""Limit on the bytes of all calls of one link, and of all calls that wait in a target. A larger
call is accepted if it is the only one."""
LARGEST_CALL_BYTES = MAX_FRAME_BYTES - (1 << 20)
"""A frame needs room for more than the tensors."""


class LiveTarget:
    """One variant of a deployment, with the links to the replicas that have it loaded."""

    def __init__(
        self,
        deployment: str,
        target: TargetRoute,
        queue_limit: int,
        busy_links: set[ReplicaLink] | None = None,
    ) -> None:
        """`target` is the entry of the snapshot. `busy_links` has the links whose replicas have
        unanswered calls."""
        self._busy_links = busy_links
        self.deployment = deployment
        self.version = target.version
        self.variant = target.variant
        self.signature: Signature = target.signature
        self.codec = JsonCodec(target.signature)
        self.travels_alone = target.signature.has_bytes
        self.task = target.task
        self.published_at = target.published_at
        self.weight = target.weight
        self.queue_limit = queue_limit
        self.reason = ""
        self.ok_counters: memoryview | None = None
        """The meter's counters for answers of this target, which it needs for each answer."""
        self._sockets: frozenset[str] = frozenset()
        self._links: dict[str, ReplicaLink] = {}
        """Links to the replicas of the snapshot, by socket."""
        self._leaving: set[ReplicaLink] = set()
        """Links to replicas that left the snapshot and have unanswered calls."""
        self._connecting: dict[str, asyncio.Task[None]] = {}
        self._waiting = HeldCalls()
        self._down_since = time.monotonic()
        """When the last replica stopped taking calls, if none takes any."""
        self._retired = False
        self._successor: LiveTarget | None = None

    # -- calls ------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        return any(link.usable for link in self._links.values())

    def submit(self, call: Call) -> None:
        """Send `call`, or hold it for a replica that is about to start.

        Raises Overloaded, with the seconds after which to retry, if the deadline cannot be met, and
        Unavailable if no replica can answer.
        """
        link = self._least_busy()
        if link is None:
            if self._successor is not None:  # the target was replaced while the body was read
                self._check_successor(self._successor, call)
                self._successor.submit(call)
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

    def cancel(self, call: Call) -> None:
        """Drop `call`: its client disconnected."""
        if call.link is not None:
            call.link.cancel(call)
            return
        target: LiveTarget | None = self
        while target is not None:
            if call in target._waiting:
                target._waiting.remove(call)
                return
            target = target._successor

    def generate(self, call: GenerationCall) -> None:
        """Like `submit`, for a text generation."""
        self.submit(call)

    def cancel_generation(self, call: GenerationCall) -> None:
        """Stop the generation `call`: its client disconnected.

        The engine's slot is free within one step. The ending, with the final token counts, follows
        in a later tick.
        """
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
        """A link for a call whose bytes exceed the limit of the least busy link.

        Raises BodyTooLarge if the call fits no frame, Overloaded if no link has room.
        """
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

    def _check_room(self, used_bytes: int, call: Call) -> None:
        if used_bytes and used_bytes + call.size > BYTES_IN_FLIGHT:
            full = f"{used_bytes >> 20} MiB of requests waiting, of at most {BYTES_IN_FLIGHT >> 20}"
            raise Overloaded(f"{self.deployment} has {full}", retry_after=1.0)

    def _hold(self, call: Call) -> None:
        down = time.monotonic() - self._down_since
        if self._retired or down > HOLD_SECONDS:
            if any(link.is_congested for link in self._links.values()):
                silent = f"has taken no request for {down:.1f} s"
                raise Overloaded(f"{self.deployment} {silent}", retry_after=1.0)
            reason = f": {self.reason}" if self.reason else ""
            raise Unavailable(f"{self.deployment} has no ready replica{reason}", retry_after=1.0)
        if len(self._waiting) >= self.queue_limit:
            many = f"{len(self._waiting)} requests waiting for a replica"
            raise Overloaded(f"{self.deployment} has {many}", retry_after=1.0)
        self._check_room(self._waiting.size, call)
        self._waiting.add(call)

    def _release_waiting(self) -> None:
        for call in self._waiting.take_all():
            self._resubmit(call)

    def _resubmit(self, call: Call) -> None:
        target = self
        while target._successor is not None:
            target = target._successor
        try:
            self._check_successor(target, call)
            target.submit(call)
        except MaasError as error:
            fail_call(call, error)

    def _check_successor(self, successor: LiveTarget, call: Call) -> None:
        if call.is_pinned and successor.version != self.version:
            raise Unavailable(f"{self.deployment} was replaced meanwhile", retry_after=1.0)

    def sweep(self, now: float) -> None:
        """End calls whose deadline has passed or that waited for a replica for too long."""
        for link in (*self._links.values(), *self._leaving):
            for call in [call for call in link.pending.values() if call.deadline <= now]:
                call.expire(link, now)
        if self._waiting:
            is_hold_over = now - self._down_since > HOLD_SECONDS
            for call in [c for c in self._waiting if is_hold_over or c.deadline <= now]:
                self._waiting.remove(call)
                if call.deadline <= now:
                    fail_call(call, DeadlineExceeded())
                else:
                    self._resubmit(call)

    # -- replicas ---------------------------------------------------------------------------

    def update(self, target: TargetRoute, queue_limit: int, reason: str) -> None:
        self.weight = target.weight
        self.queue_limit = queue_limit
        self.reason = reason
        previous, self._sockets = self._sockets, frozenset(target.sockets)
        for path in self._sockets - previous:
            self._start_connecting(path)
        for path in previous - self._sockets:
            self._leave(path)

    def retire(self, successor: LiveTarget | None, error: MaasError) -> None:
        """Take no more calls and let the replicas finish.

        `successor`, a target with the same signature, gets the waiting calls and those of lost
        replicas. Without a successor they fail, the waiting ones with `error`.
        """
        self._retired = True
        self._successor = successor
        self._sockets = frozenset()
        for path in list(self._links):
            self._leave(path)
        for call in self._waiting.take_all():
            if successor is not None:
                self._resubmit(call)
            else:
                fail_call(call, error)

    @property
    def is_gone(self) -> bool:
        """Whether every call of a retired target has an answer."""
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
        """Retry until the connection succeeds or the replica leaves the snapshot."""
        try:
            while path in self._sockets:
                try:
                    link = await ReplicaLink.connect(
                        path, self._link_closed, self._link_usable, self._busy_links
                    )
                except OSError:
                    link = None
                if link is not None and path not in self._sockets:
                    link.close()
                elif link is not None and link.is_open:
                    self._links[path] = link
                    self._release_waiting()
                    return
                else:
                    await asyncio.sleep(RECONNECT_SECONDS)
        finally:
            # Not in a callback of the task: by then a new snapshot may have the path again.
            del self._connecting[path]

    def _link_usable(self, link: ReplicaLink) -> None:
        """Handle a link that started or stopped taking calls."""
        if link not in self._links.values():
            return
        if link.usable:
            self._release_waiting()
        elif not self.is_ready:
            self._down_since = time.monotonic()

    def _link_closed(self, link: ReplicaLink, lost: list[Call]) -> None:
        self._leaving.discard(link)
        now = time.monotonic()
        for path, other in list(self._links.items()):
            if other is link:
                del self._links[path]
                if not link.going_away:
                    self._start_connecting(path)
                    if not self.is_ready:  # hold calls again, as a new replica is expected
                        self._down_since = now
        for call in lost:
            if call.may_be_repeated and call.deadline > now:
                self._resubmit(call)
            else:
                fail_call(call, ReplicaLost(retry_after=1.0))
