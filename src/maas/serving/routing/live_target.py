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
from maas.serving.wire.codec import JsonCodec
from maas.serving.wire.messages import MAX_FRAME_BYTES

HOLD_SECONDS = 5.0
"""How long calls wait for a replica after the last one went away."""
RECONNECT_SECONDS = 0.02
BYTES_IN_FLIGHT = 256 << 20
"""How much the calls of one link, and those that a target holds, may carry together. One that
carries more is taken while there is no other."""
LARGEST_CALL_BYTES = MAX_FRAME_BYTES - (1 << 20)  # a frame holds more than the tensors


class LiveTarget:
    """One variant of a deployment, with the links to the replicas that have it loaded."""

    def __init__(
        self,
        deployment: str,
        target: TargetRoute,
        queue_limit: int,
        owing: set[ReplicaLink] | None = None,
    ) -> None:
        """`owing` holds the links whose replicas owe an answer."""
        self._owing = owing
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
        """For whoever counts the answers; here because it is needed on every one."""
        self._sockets: frozenset[str] = frozenset()
        self._links: dict[str, ReplicaLink] = {}
        """To the replicas that the snapshot names."""
        self._leaving: set[ReplicaLink] = set()
        """To those that it no longer names, and that still owe answers."""
        self._connecting: dict[str, asyncio.Task[None]] = {}
        self._held = HeldCalls()
        self._down_since = time.monotonic()
        """Since when no replica takes calls, if none does."""
        self._retired = False
        self._heir: LiveTarget | None = None

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
                self._check_heir(self._heir, call)
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

    def cancel(self, call: Call) -> None:
        """Nobody waits for `call` any more."""
        if call.link is not None:
            call.link.cancel(call)
            return
        target: LiveTarget | None = self
        while target is not None:
            if call in target._held:
                target._held.remove(call)
                return
            target = target._heir

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
        self._check_room(self._held.size, call)
        self._held.add(call)

    def _release_held(self) -> None:
        for call in self._held.take_all():
            self._resubmit(call)

    def _resubmit(self, call: Call) -> None:
        target = self
        while target._heir is not None:
            target = target._heir
        try:
            self._check_heir(target, call)
            target.submit(call)
        except MaasError as error:
            fail_call(call, error)

    def _check_heir(self, heir: LiveTarget, call: Call) -> None:
        if call.is_pinned and heir.version != self.version:
            raise Unavailable(f"{self.deployment} was replaced meanwhile", retry_after=1.0)

    def sweep(self, now: float) -> None:
        """End every call whose deadline has passed, and those held for too long."""
        for link in (*self._links.values(), *self._leaving):
            for call in [call for call in link.pending.values() if call.deadline <= now]:
                call.expire(link, now)
        if self._held:
            given_up = now - self._down_since > HOLD_SECONDS
            for call in [c for c in self._held if given_up or c.deadline <= now]:
                self._held.remove(call)
                if call.deadline <= now:
                    fail_call(call, DeadlineExceeded())
                else:
                    self._resubmit(call)

    # -- replicas ---------------------------------------------------------------------------

    def update(self, target: TargetRoute, queue_limit: int, reason: str) -> None:
        self.weight = target.weight
        self.queue_limit = queue_limit
        self.reason = reason
        known, self._sockets = self._sockets, frozenset(target.sockets)
        for path in self._sockets - known:
            self._start_connecting(path)
        for path in known - self._sockets:
            self._leave(path)

    def retire(self, heir: LiveTarget | None, why: MaasError) -> None:
        """Take no more calls and let the replicas finish. `heir`, a target of the same signature,
        gets the calls that wait and those that the replicas lose; without one they end, those
        that wait with `why`."""
        self._retired = True
        self._heir = heir
        self._sockets = frozenset()
        for path in list(self._links):
            self._leave(path)
        for call in self._held.take_all():
            if heir is not None:
                self._resubmit(call)
            else:
                fail_call(call, why)

    @property
    def is_gone(self) -> bool:
        """Whether a retired target owes no answer any more."""
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
