"""Every route requires a scope, and the OpenAPI document has every route."""

from __future__ import annotations

from unittest.mock import MagicMock

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from maas.control.api.principal import GuardedRoute, guarded_router, requires, scope_of
from maas.control.api.problems import add_error_handlers
from maas.control.app import create_app
from maas.control.openapi.document import describe
from maas.domain.keys import Scope
from maas.gateway.app import Handlers, TaskHandlers, TextHandlers, route_table
from maas.gateway.http.routes import Route, RouteAccess
from maas.settings import ServerSettings


def nothing() -> dict[str, int]:
    return {}


@pytest.mark.parametrize(
    ("scopes", "status"), [(None, 401), ("", 403), ("call", 200), ("write", 200)]
)
def test_every_key_may_read_the_openapi_document(scopes: str | None, status: int) -> None:
    headers = {} if scopes is None else {"x-maas-key-id": "k1", "x-maas-scopes": scopes}
    response = TestClient(create_app(None)).get("/openapi.json", headers=headers)
    assert response.status_code == status


def test_every_route_is_guarded() -> None:
    app = create_app(None)
    assert len(app.routes) >= 26
    for route in app.routes:
        assert isinstance(route, GuardedRoute), f"{route} is reachable without a scope"
        assert isinstance(scope_of(route), Scope)


def test_a_route_without_a_scope_cannot_be_declared() -> None:
    router = guarded_router("test")
    with pytest.raises(RuntimeError, match="must declare exactly one scope"):
        router.get("/open")(nothing)


def test_routes_that_change_state_require_more_than_read() -> None:
    for route in create_app(None).routes:
        assert isinstance(route, GuardedRoute)
        if not set(route.methods or ()) <= {"GET", "HEAD"}:
            assert scope_of(route) is not Scope.READ, route.path
        if "/keys" in route.path or "/logs" in route.path:
            assert scope_of(route) is Scope.ADMIN, route.path


@pytest.mark.parametrize(
    ("scopes", "status"),
    [(None, 401), ("", 403), ("call,write", 403), ("read", 200), ("call, read", 200),
     ("admin", 200), ("reader", 403)],
)  # fmt: skip
def test_a_route_requires_the_scope_of_the_principal(scopes: str | None, status: int) -> None:
    app = FastAPI()
    router = guarded_router("test")
    router.get("/it", dependencies=[requires(Scope.READ)])(nothing)
    app.router.routes.extend(router.routes)
    add_error_handlers(app)
    headers = {} if scopes is None else {"x-maas-key-id": "k1", "x-maas-scopes": scopes}
    response = TestClient(app).get("/it", headers=headers)
    assert response.status_code == status
    if status != 200:
        assert response.headers["content-type"] == "application/problem+json"


def test_the_document_has_every_route_of_control_and_gateway() -> None:
    document = describe(create_app(None))
    described = {(path, method) for path, ops in document["paths"].items() for method in ops}
    for route in create_app(None).routes:
        assert isinstance(route, GuardedRoute)
        if route.path != "/openapi.json":
            assert {(route.path, m.lower()) for m in route.methods or ()} <= described
    public = {path for path, ops in document["paths"].items()
              for op in ops.values() if op.get("security") == []}  # fmt: skip
    assert public == {"/livez", "/readyz"}


def test_the_document_has_the_routes_of_the_gateway() -> None:
    paths = describe(create_app(None))["paths"]
    of_control = {r.path for r in create_app(None).routes if isinstance(r, GuardedRoute)}
    described = {(p, m.upper()) for p, ops in paths.items() for m in ops if p not in of_control}
    blank = MagicMock()  # the handlers in the table are never called
    ready = Route("GET", "/readyz", RouteAccess.PUBLIC, blank)
    metrics = Route("GET", "/metrics", Scope.READ, blank)
    handlers = Handlers(
        blank, blank, TextHandlers(blank), TaskHandlers(blank), blank, ready, metrics
    )
    table = route_table(handlers, ServerSettings())
    answered = {
        (route.pattern, route.method)
        for route in table.routes
        if route.pattern not in ("/", "/docs", "/api/{*}")
        and route.pattern not in of_control
        and not route.pattern.startswith("/assets/")
    }
    assert described == answered
