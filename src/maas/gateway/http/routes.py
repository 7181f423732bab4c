"""The route table: every path and method, and the access that it requires.

A route cannot be made without an access. Authorization depends on the matched route, never on the
text of a URL.
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
    """The access to a route that does not require one particular scope."""

    PUBLIC = "public"
    """Without a key."""
    ANY_KEY = "any key"
    """With any valid key. Control checks its scopes."""


@dataclass(frozen=True)
class Route:
    """A path and method with a handler."""

    method: str
    pattern: str
    """`/predict/{deployment}`: a segment in braces matches any one segment; a last `{*}` matches
    the rest of the path."""
    access: Scope | RouteAccess
    handler: Callable[[Request], None]
    max_body: int = 0
    """Largest body in bytes."""
    content_types: tuple[bytes, ...] = JSON_ONLY
    """Accepted content types of a body, such as `image/*`; empty for all."""
    max_json: int | None = None
    """Largest JSON body in bytes, if less than `max_body`: JSON takes the most time to decode."""
    streams_body: bool = False
    """Whether the handler is called before the body arrives."""
    error_shape: ErrorShape = problem_shape
    while_draining: bool = False
    """Whether the route is served while the server stops, as health routes are."""


class RouteTable:
    """Finds the route of a request."""

    def __init__(self, routes: list[Route]) -> None:
        """Raises ValueError if a path and method occur twice."""
        self.routes = tuple(routes)
        self._by_pattern: list[tuple[tuple[str, ...], dict[str, Route]]] = []
        for route in routes:
            segments = tuple(route.pattern.strip("/").split("/"))
            methods = next((m for s, m in self._by_pattern if s == segments), None)
            if methods is None:
                methods = {}
                self._by_pattern.append((segments, methods))
            if route.method in methods:
                raise ValueError(f"{route.method} {route.pattern} occurs twice")
            methods[route.method] = route
            if route.method == "GET":
                methods.setdefault("HEAD", route)
        self._recent: dict[bytes, tuple[dict[str, Route], tuple[str, ...]]] = {}

    def match(self, method: str, target: bytes) -> tuple[Route, tuple[str, ...]]:
        """The route, and the path segments in place of its braces.

        Raises NotFound or MethodNotAllowed.
        """
        entry = self._recent.get(target)
        if entry is None:
            entry = self._find(target)
            if len(self._recent) >= 1024:
                self._recent.clear()
            self._recent[target] = entry
        methods, params = entry
        route = methods.get(method)
        if route is None:
            allowed = ", ".join(sorted(methods))
            raise MethodNotAllowed(f"this path allows {allowed}, not {method}", allow=allowed)
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
    """The segments in place of the braces of `pattern`, or None if it does not match."""
    if pattern[-1] == "{*}":
        head = pattern[:-1]
        fits = len(segments) > len(head) and tuple(segments[: len(head)]) == head
        return ("/".join(segments[len(head) :]),) if fits else None
    if len(pattern) != len(segments):
        return None
    params = []
    for expected, segment in zip(pattern, segments, strict=True):
        if expected.startswith("{"):
            params.append(segment)
        elif expected != segment:
            return None
    return tuple(params)
