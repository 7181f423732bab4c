"""`GET /v1/models`: the deployments that the routes under `/v1` serve."""

from __future__ import annotations

import msgspec

from maas.domain.errors import ModelNotFound, NotFound
from maas.domain.models import Task
from maas.domain.names import shown
from maas.gateway.http.request import JSON, Request
from maas.protocols.openai_responses import OpenAIModel, OpenAIModelList
from maas.serving.routing.router import LiveDeployment, Router

TASKS = frozenset({Task.TEXT_GENERATION, Task.EMBEDDING, Task.TRANSCRIPTION})
"""Tasks that have a route under `/v1`."""


class ModelsHandler:
    def __init__(self, router: Router) -> None:
        self._router = router

    def list(self, request: Request) -> None:
        deployments = sorted(self._router.deployments.items())
        models = [_model(deployment) for _, deployment in deployments if _is_listed(deployment)]
        _respond(request, OpenAIModelList("list", models))

    def get(self, request: Request) -> None:
        """Raises ModelNotFound."""
        name = request.params[0]
        try:
            deployment = self._router.get(name)
        except NotFound as error:
            raise ModelNotFound(error.message, field="model") from None
        if not _is_listed(deployment):
            raise ModelNotFound(
                f"the deployment {shown(name)} is not called through /v1; see GET /v2/models/NAME",
                field="model",
            )
        _respond(request, _model(deployment))


def _is_listed(deployment: LiveDeployment) -> bool:
    return any(target.task in TASKS for target in deployment.targets)


def _model(deployment: LiveDeployment) -> OpenAIModel:
    created = max(target.published_at for target in deployment.targets)
    return OpenAIModel(deployment.name, "model", int(created), "openmaas")


def _respond(request: Request, body: msgspec.Struct) -> None:
    request.respond(200, msgspec.json.encode(body), JSON)
