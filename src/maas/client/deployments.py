"""deploy, rollback, and single deployments."""

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
    """The deployment cannot become ready."""

    code = "deployment_failed"


@dataclass(frozen=True)
class DeploymentChange:
    """A desired state of a deployment; the server fills in what is None or empty.

    Without `version` it takes the newest of the model, without `variant` the first of the version;
    the variant `auto` is the best of the newest optimization. An existing deployment keeps its
    targets if none of these is set. `targets` splits the traffic instead of `version` and
    `variant`.
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
            Scaling(**self.scaling)  # raises InvalidInput before anything is sent
            out["scaling"] = dict(self.scaling)
        if self.default is not None:
            out["default"] = self.default
        if self.gate is not None:
            out["gate"] = self.gate
        return out


def get(name: str) -> ApiCall[DeploymentView]:
    """One deployment. Raises NotFound."""
    return ApiCall("GET", _path(name), _view, safe=True)


def list_() -> ApiCall[list[DeploymentView]]:
    """All deployments."""
    return ApiCall("GET", path("api", "v1", "deployments"), _views, safe=True)


def put(name: str, change: DeploymentChange) -> ApiCall[DeploymentView]:
    """Set the desired state of a deployment, without waiting for it."""
    return ApiCall("PUT", _path(name), _view, safe=True, body=encode(change.body()))


def delete(name: str) -> ApiCall[None]:
    """Delete a deployment after it has answered the requests in flight; its model stays."""
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
    progress: Callable[[DeploymentView], None] | None = None,
    **scaling: int,
) -> Flow[DeploymentView]:
    """Deploy `model` (default: the model `name`) under `name`, and wait until it is ready.

    Without `version`, `variant` and `targets` the newest version is deployed; if other settings
    are given, an existing deployment keeps its targets. `variant`: "auto" takes the best of the
    newest optimization. `targets`: versions and variants with their weights. `default`: whether it
    answers requests to `/predict` without a name. `gate`: a rule that the evidence of every target
    must satisfy, now and after each later change; "" removes it. `scaling`: any of `replicas`,
    `max_batch` (rows), `queue_limit` (requests per replica) and `threads`.

    `wait_s`: seconds to wait; 0 does not wait. `progress` is called with the state while waiting.

    Raises NotFound for an unknown model or version, Conflict if the gate does not hold,
    DeploymentFailed with the reason, DeadlineExceeded if it is not ready after `wait_s` seconds.
    """
    change = DeploymentChange(model or name, version, variant, targets, scaling, default, gate)
    view: DeploymentView = yield put(name, change)
    return (yield from wait_until_ready(view, wait_s, progress))


def rollback(
    name: str,
    *,
    wait_s: float = 300.0,
    progress: Callable[[DeploymentView], None] | None = None,
) -> Flow[DeploymentView]:
    """Restore the state before the last change, and wait until the deployment is ready.

    A second rollback undoes the first. `wait_s` and `progress` as in `deploy`. Raises NotFound,
    Conflict if there is no earlier state, and the errors of `deploy`.
    """
    view: DeploymentView = yield ApiCall("POST", _path(name) + "/rollback", _view)
    return (yield from wait_until_ready(view, wait_s, progress))


def wait_until_ready(
    view: DeploymentView, wait_s: float, progress: Callable[[DeploymentView], None] | None = None
) -> Flow[DeploymentView]:
    """Poll a deployment, at growing intervals, until the revision of `view` is ready."""
    waited, pause = 0.0, FIRST_POLL_S
    revision = view.deployment.revision
    while wait_s > 0:
        view = yield get(view.name)
        if progress is not None:
            progress(view)
        if view.deployment.revision > revision:
            raise DeploymentFailed(f"{view.name} was changed again while it was starting")
        if view.state in ("ready", "stopped"):
            return view
        if view.state == "failed":
            raise DeploymentFailed(view.reason or "the server gave no reason", deployment=view.name)
        if waited >= wait_s:
            reason = f": {view.reason}" if view.reason else ""
            raise DeadlineExceeded(f"{view.name} is not ready after {wait_s:g} s{reason}")
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
