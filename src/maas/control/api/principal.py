"""Who asks, and whether they may: the one dependency that every route declares.

The gateway checks the key, strips these headers from what clients send and sets its own. Control
listens on a unix socket that only this user can open, so what arrives here came from the gateway.
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
    """The key that a request came with."""

    key_id: str
    key_name: str
    scopes: frozenset[str]

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes


@dataclass(frozen=True)
class RequiredScope:
    """The dependency: gives the Principal, or raises Unauthenticated or Forbidden."""

    scope: Scope
    or_any: bool = False
    """Whether any other scope does, too."""

    def __call__(self, request: Request) -> Principal:
        headers = request.headers
        key_id = headers.get(KEY_ID, "")
        if not key_id:
            raise Unauthenticated()
        scopes = frozenset(s.strip() for s in headers.get(SCOPES, "").split(",") if s.strip())
        principal = Principal(key_id, headers.get(KEY_NAME, ""), scopes)
        if not principal.may(self.scope) and not (self.or_any and scopes):
            raise Forbidden(
                f"this needs the scope {str(self.scope)!r}; key {principal.key_name or key_id} "
                f"has {', '.join(sorted(scopes)) or 'none'}",
                scope=str(self.scope),
            )
        return principal


def needs(scope: Scope) -> Any:
    """For `dependencies=[needs(Scope.READ)]`, or as a parameter's default to get the Principal."""
    return Depends(RequiredScope(scope))


def any_key() -> Any:
    """As `needs` of the least scope, for what every key may see."""
    return Depends(RequiredScope(Scope.CALL, or_any=True))


def scope_of(route: APIRoute) -> Scope:
    """The scope that `route` declares; a route without one is a mistake in the program."""
    return _needs_of(route).scope


def _needs_of(route: APIRoute) -> RequiredScope:
    asked: list[Any] = [d.dependency for d in route.dependencies if _is_depends(d)]
    asked += [d.call for d in route.dependant.dependencies]
    found = {a for a in asked if isinstance(a, RequiredScope)}
    if len(found) != 1:
        raise RuntimeError(f"{route.methods} {route.path} must declare exactly one scope")
    return found.pop()


def _is_depends(value: object) -> bool:
    return isinstance(value, DependsParameter)


class GuardedRoute(APIRoute):
    """A route that cannot be made without a scope, and that looks at nothing of a request before
    its scope was checked."""

    max_json_bytes = MAX_JSON_BYTES

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        guard = _needs_of(self)
        takes_json = self.body_field is not None
        limit = self.max_json_bytes
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            guard(request)
            if takes_json:
                # FastAPI's own parser takes NaN and answers depth bombs with a 500.
                request._json = await read_json(request, limit)
            return await inner(request)

        return handle


def guarded_router(tag: str, route_class: type[GuardedRoute] = GuardedRoute) -> APIRouter:
    return APIRouter(route_class=route_class, tags=[tag])
