"""Deployments that a request names in its body, for one task each."""

from __future__ import annotations

from maas.domain.errors import MaasError, ModelNotFound, NotFound
from maas.domain.models import Task
from maas.gateway.calls import CallContext
from maas.gateway.http.request import Request
from maas.serving.routing.live_target import LiveTarget
from maas.serving.routing.router import LiveDeployment


class TaskService:
    """Looks up the deployment of a request, and counts requests refused before any work began."""

    def __init__(self, context: CallContext) -> None:
        self.context = context
        self.router = context.router
        self.meter = context.meter

    def target(self, name: str, task: Task) -> LiveTarget:
        """Pick a target of the deployment `name`.

        Raises ModelNotFound if no deployment has this name or it is for another task, and
        Unavailable if none of its replicas can answer.
        """
        try:
            deployment = self.router.get(name)
        except NotFound as error:
            raise ModelNotFound(error.message, field="model") from None
        _check_task(deployment, task)
        return deployment.pick()

    def refuse(self, request: Request, operation: str, name: str, error: MaasError) -> None:
        """Count and answer a request that is refused before its work begins."""
        deployment = self.router.deployments.get(name)
        if deployment is not None:
            target = deployment.targets[0] if len(deployment.targets) == 1 else None
            self.meter.failed(request.key, operation, name, target, error)
        request.fail(error)


def _check_task(deployment: LiveDeployment, task: Task) -> None:
    for target in deployment.targets:
        if target.task != task:
            raise ModelNotFound(
                f"{deployment.name} is for {target.task}, not for {task}; "
                f"call it with POST /predict/{deployment.name}",
                field="model",
            )
