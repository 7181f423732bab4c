"""`GET /v1/models`: the deployments that the doors under `/v1` can call."""

from __future__ import annotations

import json
from typing import Any

from maas.domain.errors import ModelNotFound, NotFound
from maas.domain.models import Task
from maas.domain.names import shown
from maas.gateway.http.request import JSON, Request
from maas.serving.routing.router import LiveDeployment, Router

TASKS = frozenset({Task.TEXT_GENERATION, Task.EMBEDDING, Task.TRANSCRIPTION})


class ModelsHandler:
    def __init__(self, router: Router) -> None:
        self._router = router

    def list(self, request: Request) -> None:
        deployments = sorted(self._router.deployments.items())
        models = [_shown(live) for _, live in deployments if _is_listed(live)]
        _answer(request, {"object": "list", "data": models})

    def get(self, request: Request) -> None:
        """Raises ModelNotFound."""
        name = request.params[0]
        try:
            live = self._router.get(name)
        except NotFound as error:
            raise ModelNotFound(error.message, field="model") from None
        if not _is_listed(live):
            raise ModelNotFound(
                f"the deployment {shown(name)} is not called through /v1; see GET /v2/models/NAME",
                field="model",
            )
        _answer(request, _shown(live))


def _is_listed(live: LiveDeployment) -> bool:
    return any(target.task in TASKS for target in live.targets)


def _shown(live: LiveDeployment) -> dict[str, Any]:
    """`created`: when the newest of its versions was published."""
    created = max(target.published_at for target in live.targets)
    return {"id": live.name, "object": "model", "created": int(created), "owned_by": "openmaas"}


def _answer(request: Request, value: dict[str, Any]) -> None:
    request.respond(200, json.dumps(value).encode(), JSON)
