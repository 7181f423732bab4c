"""Selects the target of a call: the deployment by name, then one of its targets by weight.

A router follows the routing snapshot. `live_target.py` then selects a replica of the target.
"""

from __future__ import annotations

import asyncio
import time
from random import choices

from maas.domain.errors import NotFound, Unavailable
from maas.domain.names import did_you_mean, shown
from maas.domain.snapshot import DeploymentRoutes, Snapshot, TargetRoute
from maas.serving.routing.dispatch import ReplicaLink
from maas.serving.routing.live_target import LiveTarget

SWEEP_SECONDS = 0.1


class LiveDeployment:
    """A deployment and its targets."""

    def __init__(self, name: str, busy_links: set[ReplicaLink] | None = None) -> None:
        self.name = name
        self._busy_links = busy_links
        self.model = ""
        self.reason = ""
        self.targets: list[LiveTarget] = []
        self._retired: list[LiveTarget] = []
        """Former targets whose replicas have unanswered calls."""

    def update(self, new: DeploymentRoutes) -> None:
        """Follow the snapshot: add, update and retire targets."""
        self.model = new.model
        self.reason = new.reason
        previous = {_identity(target): target for target in self.targets}
        targets = []
        for entry in new.targets:
            target = previous.pop(_identity(entry), None)
            targets.append(
                target or LiveTarget(self.name, entry, new.queue_limit, self._busy_links)
            )
        self.targets = targets
        for target, entry in zip(targets, new.targets, strict=True):
            target.update(entry, new.queue_limit, new.reason)
        for old in previous.values():
            error = Unavailable(f"{self.name} was replaced meanwhile", retry_after=1.0)
            self._retired.append(old)
            old.retire(self._successor_of(old), error)

    def _successor_of(self, old: LiveTarget) -> LiveTarget | None:
        """The target that can answer the calls of `old`: of the same version if possible, else
        the one with the largest weight."""
        able = [target for target in self.targets if target.signature == old.signature]
        return max(able, key=lambda t: (t.version == old.version, t.weight), default=None)

    def pick(self, version: int | None = None) -> LiveTarget:
        """A random target by weight, or the target of `version`.

        Raises NotFound if no target has this version, Unavailable if no target has any weight.
        """
        targets = self.targets
        if version is not None:
            for target in targets:
                if target.version == version:
                    return target
            versions = ", ".join(str(number) for number in sorted({t.version for t in targets}))
            raise NotFound(
                f"deployment {self.name} does not serve version {version}; it serves {versions}"
            )
        if len(targets) == 1:
            return targets[0]
        # The share of a target without a ready replica goes to the others.
        weighted = [target for target in targets if target.weight]
        candidates = [target for target in weighted if target.is_ready] or weighted
        if not candidates:
            reason = f": {self.reason}" if self.reason else ""
            raise Unavailable(f"{self.name} has no ready replica{reason}", retry_after=1.0)
        return choices(candidates, [target.weight for target in candidates])[0]

    def remove(self) -> None:
        """Retire all targets: the deployment was deleted."""
        targets, self.targets = self.targets, []
        self._retired += targets
        for target in targets:
            target.retire(None, NotFound(f"deployment {self.name} was deleted"))

    def sweep(self, now: float) -> None:
        for target in (*self.targets, *self._retired):
            target.sweep(now)
        self._retired = [target for target in self._retired if not target.is_gone]

    @property
    def is_gone(self) -> bool:
        """Whether every call of a removed deployment has an answer."""
        return not self._retired


class Router:
    """All deployments of the snapshot."""

    def __init__(self) -> None:
        self.deployments: dict[str, LiveDeployment] = {}
        self.default: str | None = None
        self._busy_links: set[ReplicaLink] = set()
        self._removed: list[LiveDeployment] = []
        """Deleted deployments whose replicas have unanswered calls."""
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
                live = self.deployments[new.name] = LiveDeployment(new.name, self._busy_links)
            live.update(new)

    def get(self, name: str | None) -> LiveDeployment:
        """The deployment `name`, or the default one; raises NotFound."""
        if name is None:
            name = self.default
            if name is None:
                raise NotFound("there is no default deployment; call /predict/NAME")
        live = self.deployments.get(name)
        if live is None:
            hint = did_you_mean(name, self.deployments)
            raise NotFound(f"there is no deployment {shown(name)}{hint}")
        return live

    def is_working(self) -> bool:
        """Whether any replica has an unanswered call."""
        return bool(self._busy_links)

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


def _identity(target: LiveTarget | TargetRoute) -> tuple[int, str, str]:
    """Targets of two snapshots are the same if version, variant and signature are equal."""
    return target.version, target.variant, repr(target.signature)
