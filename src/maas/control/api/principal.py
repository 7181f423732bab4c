"""Authorization: the dependency that every route declares, and the principal it returns.

The gateway checks the key, removes the headers below from client requests and sets its own. Control
listens on a unix socket that only this user can open, so these headers come from the gateway.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.params import Depends as DependsParameter
from fastapi.routing import APIRoute

from maas.control.api.bodies import MAX_JSON_BYTES, read_json
from maas.domain.errors import Forbidden, Unauthenticated
from maas.domain.keys import Scope

KEY_ID, KEY_NAME, SCOPES = "x-maas-key-id", "x-maas-key-name", "x-maas-scopes"


@dataclass(frozen=True)
class Principal:
    """The key of a request."""

    key_id: str
    key_name: str
    scopes: frozenset[str]

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes


@dataclass(frozen=True)
class RequiredScope:
    """Dependency that returns the Principal, or raises Unauthenticated or Forbidden."""

    scope: Scope
    or_any: bool = False
    """Whether any other scope is enough, too."""

    def __call__(self, request: Request) -> Principal:
        headers = request.headers
        key_id = headers.get(KEY_ID, "")
        if not key_id:
            raise Unauthenticated()
        scopes = frozenset(s.strip() for s in headers.get(SCOPES, "").split(",") if s.strip())
        principal = Principal(key_id, headers.get(KEY_NAME, ""), scopes)
        if not principal.may(self.scope) and not (self.or_any and scopes):
            raise Forbidden(
                f"the scope {str(self.scope)!r} is required; key {principal.key_name or key_id} "
                f"has {', '.join(sorted(scopes)) or 'none'}",
                scope=str(self.scope),
            )
        return principal


def requires(scope: Scope) -> Any:
    """The dependency for a route that requires `scope`.

    For `dependencies=[requires(Scope.READ)]`, or as the metadata of a parameter of type Principal.
    """
    return Depends(RequiredScope(scope))


def any_key() -> Any:
    """The dependency for a route that every valid key may use."""
    return Depends(RequiredScope(Scope.CALL, or_any=True))


def scope_of(route: APIRoute) -> Scope:
    """The scope that `route` declares. Raises RuntimeError for a route without one."""
    return _required_scope(route).scope


def _required_scope(route: APIRoute) -> RequiredScope:
    dependencies: list[Any] = [d.dependency for d in route.dependencies if _is_depends(d)]
    dependencies += [d.call for d in route.dependant.dependencies]
    scopes = {d for d in dependencies if isinstance(d, RequiredScope)}
    if len(scopes) != 1:
        raise RuntimeError(f"{route.methods} {route.path} must declare exactly one scope")
    return scopes.pop()


def _is_depends(value: object) -> bool:
    return isinstance(value, DependsParameter)


class GuardedRoute(APIRoute):
    """A route that must declare a scope and checks it before it reads the request's body."""

    max_json_bytes = MAX_JSON_BYTES

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        check_scope = _required_scope(self)
        has_body = self.body_field is not None
        limit = self.max_json_bytes
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            check_scope(request)
            if has_body:
                # FastAPI's own parser accepts NaN and answers deeply nested JSON with status 500.
                request._json = await read_json(request, limit)
            return await inner(request)

        return handle


def guarded_router(tag: str, route_class: type[GuardedRoute] = GuardedRoute) -> APIRouter:
    return APIRouter(route_class=route_class, tags=[tag])
