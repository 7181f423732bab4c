"""All routes of the gateway."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from maas.domain.keys import Scope
from maas.gateway.anthropic.errors import anthropic_shape
from maas.gateway.anthropic.messages import MessagesHandler
from maas.gateway.console import console_routes
from maas.gateway.health import live
from maas.gateway.http.request import oip_shape
from maas.gateway.http.routes import JSON_ONLY, Route, RouteAccess, RouteTable
from maas.gateway.modalities import Modalities, modality_routes
from maas.gateway.oip.infer import OCTETS, OipHandler
from maas.gateway.openai.chat import ChatHandler
from maas.gateway.openai.completions import CompletionsHandler
from maas.gateway.openai.errors import openai_shape
from maas.gateway.openai.models import ModelsHandler
from maas.gateway.predict.bodies import PREDICT_TYPES
from maas.gateway.predict.tensors import PredictHandler
from maas.gateway.proxy import ControlProxy
from maas.gateway.text.generation import TextService

EXPLAIN_BODY_BYTES = 16 << 20
V2 = "/v2/models/{model}"


class TextHandlers:
    """Those under `/v1` that write text."""

    def __init__(self, service: TextService) -> None:
        self.models = ModelsHandler(service.router)
        self.chat = ChatHandler(service)
        self.completions = CompletionsHandler(service)
        self.messages = MessagesHandler(service)


@dataclass(frozen=True)
class Handlers:
    """What the routes lead to; made by the process, which knows the settings."""

    predict: PredictHandler
    oip: OipHandler
    text: TextHandlers
    proxy: ControlProxy
    ready: Route
    metrics: Route
    modalities: Modalities


class BodyLimits(Protocol):
    """Bytes that a body may have; the server's settings say."""

    @property
    def max_json_bytes(self) -> int: ...
    @property
    def max_body_bytes(self) -> int: ...
    @property
    def max_file_bytes(self) -> int: ...


def route_table(handlers: Handlers, limits: BodyLimits) -> RouteTable:
    predict, oip, proxy = handlers.predict, handlers.oip, handlers.proxy
    max_body = limits.max_body_bytes
    max_json = min(limits.max_json_bytes, max_body)
    call = Scope.CALL
    routes = [
        Route("GET", "/livez", RouteAccess.PUBLIC, live, while_draining=True),
        handlers.ready,
        handlers.metrics,
        *(
            Route("POST", path, call, predict.handle, max_body, PREDICT_TYPES, max_json=max_json)
            for path in ("/predict", "/predict/{deployment}")
        ),
        *modality_routes(handlers.modalities, max_json, max_body),
        Route("POST", "/explain/{deployment}", call, proxy.explain, EXPLAIN_BODY_BYTES),
        *_oip_routes(oip, limits.max_body_bytes),
        *_text_routes(handlers.text, max_json),
        Route("GET", "/openapi.json", RouteAccess.ANY_KEY, proxy.forward),
        *(
            Route(method, "/api/{*}", RouteAccess.ANY_KEY, proxy.forward,
                  limits.max_file_bytes if method != "GET" else 0, content_types=(),
                  streams_body=method != "GET")
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        ),
        *console_routes(),
    ]  # fmt: skip
    return RouteTable(routes)


def _oip_routes(oip: OipHandler, max_body: int) -> list[Route]:
    gets = (
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
        for pattern, handler in gets
    ]
    for pattern in (f"{V2}/infer", f"{V2}/versions/{{version}}/infer"):
        # Clients of the protocol often send no content type at all.
        types = (*JSON_ONLY, OCTETS, b"")
        routes.append(Route("POST", pattern, Scope.CALL, oip.infer, max_body, types,
                            error_shape=oip_shape))  # fmt: skip
    return routes


def _text_routes(doors: TextHandlers, max_json: int) -> list[Route]:
    call, openai, anthropic = Scope.CALL, openai_shape, anthropic_shape
    routes = [
        Route("GET", "/v1/models", call, doors.models.list, error_shape=openai),
        Route("GET", "/v1/models/{model}", call, doors.models.get, error_shape=openai),
    ]
    for path, handler, shape in (
        ("/v1/chat/completions", doors.chat.handle, openai),
        ("/v1/completions", doors.completions.handle, openai),
        ("/v1/messages", doors.messages.create, anthropic),
        ("/v1/messages/count_tokens", doors.messages.count, anthropic),
    ):
        routes.append(Route("POST", path, call, handler, max_json, error_shape=shape))
    return routes
