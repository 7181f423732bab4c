"""All routes of the gateway."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from maas.domain.keys import Scope
from maas.gateway.anthropic.errors import anthropic_shape
from maas.gateway.anthropic.messages import MessagesHandler
from maas.gateway.console import console_routes
from maas.gateway.health import live
from maas.gateway.http.forms import FORM
from maas.gateway.http.request import oip_shape
from maas.gateway.http.routes import JSON_ONLY, Route, RouteAccess, RouteTable
from maas.gateway.oip.infer import OCTETS, OipHandler
from maas.gateway.openai.audio import AudioHandler
from maas.gateway.openai.chat import ChatHandler
from maas.gateway.openai.completions import CompletionsHandler
from maas.gateway.openai.embeddings import EmbeddingsHandler
from maas.gateway.openai.errors import openai_shape
from maas.gateway.openai.models import ModelsHandler
from maas.gateway.openai.rerank import RerankHandler
from maas.gateway.predict.bodies import PREDICT_TYPES
from maas.gateway.predict.tensors import PredictHandler
from maas.gateway.proxy import ControlProxy
from maas.gateway.text.generation import TextService
from maas.gateway.text.task_service import TaskService

EXPLAIN_BODY_BYTES = 16 << 20
V2 = "/v2/models/{model}"


class TextHandlers:
    """Handlers of the protocols for generated text."""

    def __init__(self, service: TextService) -> None:
        self.models = ModelsHandler(service.router)
        self.chat = ChatHandler(service)
        self.completions = CompletionsHandler(service)
        self.messages = MessagesHandler(service)


class TaskHandlers:
    """Handlers of the other tasks with an OpenAI or Cohere API: embeddings, reranking, audio."""

    def __init__(self, service: TaskService) -> None:
        self.embeddings = EmbeddingsHandler(service)
        self.rerank = RerankHandler(service)
        self.audio = AudioHandler(service)


@dataclass(frozen=True)
class Handlers:
    """The handlers behind the routes, made by the gateway process from its settings."""

    predict: PredictHandler
    oip: OipHandler
    text: TextHandlers
    tasks: TaskHandlers
    proxy: ControlProxy
    ready: Route
    metrics: Route


class BodyLimits(Protocol):
    """The largest bodies in bytes, a part of the server's settings."""

    @property
    def max_json_bytes(self) -> int: ...
    @property
    def max_body_bytes(self) -> int: ...
    @property
    def max_file_bytes(self) -> int: ...


def route_table(handlers: Handlers, limits: BodyLimits) -> RouteTable:
    """The route table of a gateway."""
    predict, proxy = handlers.predict, handlers.proxy
    max_body = limits.max_body_bytes
    max_json = min(limits.max_json_bytes, max_body)
    routes = [
        Route("GET", "/livez", RouteAccess.PUBLIC, live, while_draining=True),
        handlers.ready,
        handlers.metrics,
        *(
            Route("POST", path, Scope.CALL, predict.handle, max_body, PREDICT_TYPES,
                  max_json=max_json)
            for path in ("/predict", "/predict/{deployment}")
        ),
        *_task_routes(handlers.tasks, max_json, max_body),
        Route("POST", "/explain/{deployment}", Scope.CALL, proxy.explain, EXPLAIN_BODY_BYTES),
        *_oip_routes(handlers.oip, max_body),
        *_text_routes(handlers.text, max_json),
        Route("GET", "/openapi.json", RouteAccess.ANY_KEY, proxy.forward),
        Route("GET", "/api/{*}", RouteAccess.ANY_KEY, proxy.forward, content_types=()),
        *(
            Route(method, "/api/{*}", RouteAccess.ANY_KEY, proxy.forward, limits.max_file_bytes,
                  content_types=(), streams_body=True)
            for method in ("POST", "PUT", "PATCH", "DELETE")
        ),
        *console_routes(),
    ]  # fmt: skip
    return RouteTable(routes)


def _task_routes(tasks: TaskHandlers, max_json: int, max_body: int) -> list[Route]:
    json_handlers = (
        ("/v1/embeddings", tasks.embeddings.handle),
        ("/v1/rerank", tasks.rerank.handle),
        ("/rerank", tasks.rerank.handle),
    )
    form_handlers = (
        ("/v1/audio/transcriptions", tasks.audio.transcribe),
        ("/v1/audio/translations", tasks.audio.translate),
    )
    routes = [
        Route("POST", path, Scope.CALL, handler, max_json, error_shape=openai_shape)
        for path, handler in json_handlers
    ]
    routes += [
        Route("POST", path, Scope.CALL, handler, max_body, (FORM,), error_shape=openai_shape)
        for path, handler in form_handlers
    ]
    return routes


def _oip_routes(oip: OipHandler, max_body: int) -> list[Route]:
    get_handlers = (
        ("/v2", oip.server_metadata),
        ("/v2/health/live", oip.server_live),
        ("/v2/health/ready", oip.server_ready),
        (V2, oip.model_metadata),
        (f"{V2}/versions/{{version}}", oip.model_metadata),
        (f"{V2}/ready", oip.model_ready),
        (f"{V2}/versions/{{version}}/ready", oip.model_ready),
    )
    routes = [
        Route("GET", pattern, Scope.CALL, handler, error_shape=oip_shape)
        for pattern, handler in get_handlers
    ]
    # Clients of the protocol often send no content type.
    types = (*JSON_ONLY, OCTETS, b"")
    for pattern in (f"{V2}/infer", f"{V2}/versions/{{version}}/infer"):
        routes.append(Route("POST", pattern, Scope.CALL, oip.infer, max_body, types,
                            error_shape=oip_shape))  # fmt: skip
    return routes


def _text_routes(text: TextHandlers, max_json: int) -> list[Route]:
    call, openai, anthropic = Scope.CALL, openai_shape, anthropic_shape
    routes = [
        Route("GET", "/v1/models", call, text.models.list, error_shape=openai),
        Route("GET", "/v1/models/{model}", call, text.models.get, error_shape=openai),
    ]
    for path, handler, shape in (
        ("/v1/chat/completions", text.chat.handle, openai),
        ("/v1/completions", text.completions.handle, openai),
        ("/v1/messages", text.messages.create, anthropic),
        ("/v1/messages/count_tokens", text.messages.count, anthropic),
    ):
        routes.append(Route("POST", path, call, handler, max_json, error_shape=shape))
    return routes
