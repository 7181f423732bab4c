"""Where a call goes: deployments by name, and their targets by weight.

A router follows the routing snapshot. What a target does with a call is in `live_route.py`.
"""

from __future__ import annotations

import asyncio
import time
from random import choices

from maas.domain.errors import NotFound, Unavailable
from maas.domain.names import did_you_mean, shown
from maas.domain.signature import Signature
from maas.domain.snapshot import DeploymentRoutes, Snapshot
from maas.serving.routing.dispatch import ReplicaLink
from maas.serving.routing.live_target import LiveTarget

SWEEP_SECONDS = 0.1


class LiveDeployment:
    """A callable name and its targets."""

    def __init__(self, name: str, owing: set[ReplicaLink] | None = None) -> None:
        self.name = name
        self._owing = owing
        self.model = ""
        self.reason = ""
        self.targets: list[LiveTarget] = []
        self._retired: list[LiveTarget] = []
        """Those whose replicas still owe answers."""

    def update(self, new: DeploymentRoutes) -> None:
        self.model = new.model
        self.reason = new.reason
        known = {(r.version, r.variant, _identity(r.signature)): r for r in self.targets}
        targets = []
        for target in new.targets:
            live = known.pop((target.version, target.variant, _identity(target.signature)), None)
            targets.append(live or LiveTarget(self.name, target, new.queue_limit, self._owing))
        self.targets = targets
        for to_update, target in zip(targets, new.targets, strict=True):
            to_update.update(target, new.queue_limit, new.reason)
        for old in known.values():
            why = Unavailable(f"{self.name} was replaced meanwhile", retry_after=1.0)
            self._retired.append(old)
            old.retire(self._heir_of(old), why)

    def _heir_of(self, old: LiveTarget) -> LiveTarget | None:
        """Who can answer the calls of `old`: the same version if it is there, else by weight."""
        able = [target for target in self.targets if target.signature == old.signature]
        return max(able, key=lambda r: (r.version == old.version, r.weight), default=None)

    def pick(self, version: int | None = None) -> LiveTarget:
        """A target by weight, or the one of `version`; raises NotFound or Unavailable."""
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
        # A target whose replicas are all away leaves its share to the others.
        ready = [target for target in targets if target.weight and target.is_ready]
        candidates = ready or [target for target in targets if target.weight]
        if not candidates:
            why = f": {self.reason}" if self.reason else ""
            raise Unavailable(f"{self.name} has no ready replica{why}", retry_after=1.0)
        return choices(candidates, [target.weight for target in candidates])[0]

    def remove(self) -> None:
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
            hint = did_you_mean(name, self.deployments)
            raise NotFound(f"there is no deployment {shown(name)}{hint}")
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
