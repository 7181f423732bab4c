"""deploy, rollback, and the deployments one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from maas.client.answers import DeploymentView
from maas.client.http.calls import ApiCall, ApiReply, Flow, WaitStep, encode, path
from maas.domain.deployments import Scaling, Target
from maas.domain.errors import DeadlineExceeded, MaasError
from maas.domain.names import checked_name

FIRST_POLL_S = 0.05
LONGEST_POLL_S = 0.5


class DeploymentFailed(MaasError):
    """The deployment cannot become ready as it is."""

    code = "deployment_failed"


@dataclass(frozen=True)
class DeploymentChange:
    """What a deployment shall become; None and empty leave it to the server.

    Without `version` the model's newest is taken, without `variant` the version's first; `auto` is
    the one that the newest optimization found best. A deployment that is there keeps its targets
    if only other things are given.
    `targets` splits the traffic instead of these two.
    """

    model: str
    version: int | None = None
    variant: str | None = None
    targets: Sequence[Target] = ()
    scaling: Mapping[str, int] = field(default_factory=dict)
    """Any of `replicas`, `max_batch`, `queue_limit` and `threads`."""
    default: bool | None = None
    gate: str | None = None

    def body(self) -> dict[str, Any]:
        out: dict[str, Any] = {"model": checked_name(self.model, "model")}
        if self.version is not None:
            out["version"] = self.version
        if self.variant is not None:
            out["variant"] = self.variant
        if self.targets:
            out["targets"] = [
                {"version": t.version, "variant": t.variant, "weight": t.weight}
                for t in self.targets
            ]
        if self.scaling:
            Scaling(**self.scaling)  # says what is wrong with it, before anything is sent
            out["scaling"] = dict(self.scaling)
        if self.default is not None:
            out["default"] = self.default
        if self.gate is not None:
            out["gate"] = self.gate
        return out


def get(name: str) -> ApiCall[DeploymentView]:
    """One deployment: what it shall be and how far it is."""
    return ApiCall("GET", _path(name), _view, safe=True)


def list_() -> ApiCall[list[DeploymentView]]:
    """All deployments."""
    return ApiCall("GET", path("api", "v1", "deployments"), _views, safe=True)


def put(name: str, change: DeploymentChange) -> ApiCall[DeploymentView]:
    """Sets what a deployment shall be, and does not wait for it."""
    return ApiCall("PUT", _path(name), _view, safe=True, body=encode(change.body()))


def delete(name: str) -> ApiCall[None]:
    """Stops a deployment and forgets it; its model stays."""
    return ApiCall("DELETE", _path(name), _nothing)


def deploy(
    name: str,
    *,
    model: str | None = None,
    version: int | None = None,
    variant: str | None = None,
    targets: Sequence[Target] = (),
    default: bool | None = None,
    gate: str | None = None,
    wait_s: float = 300.0,
    watch: Callable[[DeploymentView], None] | None = None,
    **scaling: int,
) -> Flow[DeploymentView]:
    """Makes `model` (default: of the same name) answer as `name`, and waits until it does.

    Without `version`, `variant` and `targets` that is the newest version; or, if anything else is
    given and the deployment is there, what answers stays.
    `variant` "auto" is the one that the newest optimization found best. `gate`: a rule over
    evidence that every target must satisfy, now and when the deployment is changed; "" takes it
    away. `scaling` may hold `replicas`, `max_batch`, `queue_limit` and `threads`. `wait_s` 0 does
    not wait. `watch` is called with the state while waiting. Raises DeploymentFailed with the
    reason, DeadlineExceeded if it is not ready after `wait_s` seconds.
    """
    change = DeploymentChange(model or name, version, variant, targets, scaling, default, gate)
    view: DeploymentView = yield put(name, change)
    return (yield from wait_until_ready(view, wait_s, watch))


def rollback(
    name: str,
    *,
    wait_s: float = 300.0,
    watch: Callable[[DeploymentView], None] | None = None,
) -> Flow[DeploymentView]:
    """Puts back what the deployment was before its last change, and waits until it is ready."""
    view: DeploymentView = yield ApiCall("POST", _path(name) + "/rollback", _view)
    return (yield from wait_until_ready(view, wait_s, watch))


def wait_until_ready(
    view: DeploymentView, wait_s: float, watch: Callable[[DeploymentView], None] | None = None
) -> Flow[DeploymentView]:
    """Asks for the deployment's state, ever less often, until it is as `view` wants it."""
    waited, pause = 0.0, FIRST_POLL_S
    revision = view.deployment.revision
    while wait_s > 0:
        view = yield get(view.name)
        if watch is not None:
            watch(view)
        if view.deployment.revision > revision:
            raise DeploymentFailed(f"{view.name} was changed again while it started")
        if view.state in ("ready", "stopped"):
            return view
        if view.state == "failed":
            raise DeploymentFailed(view.reason or "no reason was given", deployment=view.name)
        if waited >= wait_s:
            why = f": {view.reason}" if view.reason else ""
            raise DeadlineExceeded(f"{view.name} is not ready after {wait_s:g} s{why}")
        yield WaitStep(pause)
        waited += pause
        pause = min(pause * 1.5, LONGEST_POLL_S)
    return view


def _path(name: str) -> str:
    return path("api", "v1", "deployments", checked_name(name, "deployment"))


def _view(reply: ApiReply) -> DeploymentView:
    return DeploymentView.from_dict(reply.json())


def _views(reply: ApiReply) -> list[DeploymentView]:
    return [DeploymentView.from_dict(d) for d in reply.json()["deployments"]]


def _nothing(_: ApiReply) -> None:
    return None
