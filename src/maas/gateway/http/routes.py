"""The route table: every path and method that exists, and who may use it.

A route without a declared access cannot be made, and the key check is bound to the matched route,
never to the text of a URL.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from maas.domain.errors import MethodNotAllowed, NotFound
from maas.domain.keys import Scope
from maas.gateway.http.request import ErrorShape, Request, problem_shape

JSON_ONLY = (b"application/json",)


class RouteAccess(Enum):
    """Who may use a route that no single scope guards."""

    PUBLIC = "public"
    ANY_KEY = "any key"
    """Control decides what this key may do."""


@dataclass(frozen=True)
class Route:
    method: str
    pattern: str
    """`/predict/{deployment}`: a segment in braces matches any one segment; a last `{*}` matches
    the rest of the path."""
    access: Scope | RouteAccess
    handler: Callable[[Request], None]
    max_body: int = 0
    content_types: tuple[bytes, ...] = JSON_ONLY
    """Of a body; empty: any. `image/*` stands for all images."""
    max_json: int | None = None
    """Largest body if it is JSON, where that is less: reading it takes the most time by far."""
    streams_body: bool = False
    error_shape: ErrorShape = problem_shape
    while_draining: bool = False
    """Health routes answer to the end."""


class RouteTable:
    def __init__(self, routes: list[Route]) -> None:
        self.routes = tuple(routes)
        self._by_pattern: list[tuple[tuple[str, ...], dict[str, Route]]] = []
        for route in routes:
            segments = tuple(route.pattern.strip("/").split("/"))
            methods = next((m for s, m in self._by_pattern if s == segments), None)
            if methods is None:
                methods = {}
                self._by_pattern.append((segments, methods))
            if route.method in methods:
                raise ValueError(f"{route.method} {route.pattern} is there twice")
            methods[route.method] = route
            if route.method == "GET":
                methods.setdefault("HEAD", route)
        self._recent: dict[bytes, tuple[dict[str, Route], tuple[str, ...]]] = {}

    def match(self, method: str, target: bytes) -> tuple[Route, tuple[str, ...]]:
        """The route and the segments that its braces matched; raises NotFound or
        MethodNotAllowed."""
        found = self._recent.get(target)
        if found is None:
            found = self._find(target)
            if len(self._recent) >= 1024:
                self._recent.clear()
            self._recent[target] = found
        methods, params = found
        route = methods.get(method)
        if route is None:
            allowed = ", ".join(sorted(methods))
            raise MethodNotAllowed(f"this path takes {allowed}, not {method}", allow=allowed)
        return route, params

    def _find(self, target: bytes) -> tuple[dict[str, Route], tuple[str, ...]]:
        path = target.partition(b"?")[0].decode("ascii", "replace")
        segments = path.strip("/").split("/")
        if not path.startswith("/") or ".." in segments or "//" in path:
            raise NotFound("there is no such path")
        for pattern, methods in self._by_pattern:
            params = _match(pattern, segments)
            if params is not None:
                return methods, params
        raise NotFound("there is no such path")


def _match(pattern: tuple[str, ...], segments: list[str]) -> tuple[str, ...] | None:
    if pattern[-1] == "{*}":
        head = pattern[:-1]
        fits = len(segments) > len(head) and tuple(segments[: len(head)]) == head
        return ("/".join(segments[len(head) :]),) if fits else None
    if len(pattern) != len(segments):
        return None
    params = []
    for wanted, got in zip(pattern, segments, strict=True):
        if wanted.startswith("{"):
            params.append(got)
        elif wanted != got:
            return None
    return tuple(params)
