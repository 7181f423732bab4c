"""Serves the console: static files of this package, each at an exact path."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources

from maas.gateway.http.request import Headers, Request
from maas.gateway.http.routes import Route, RouteAccess

_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".svg": b"image/svg+xml",
}
_POLICY = (
    b"default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; "
    b"form-action 'none'"
)
# A report has inline styles. It is shown in a sandbox without scripts that inherits the policy of
# the page around it.
_POLICIES = {"report.html": _POLICY + b"; style-src 'self' 'unsafe-inline'"}
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
)  # fmt: skip


def console_routes() -> list[Route]:
    """The console at `/`, the API's documentation at `/docs`, and their files at `/assets/…`."""
    routes = []
    for entry in sorted(resources.files("maas.console").iterdir(), key=lambda e: e.name):
        suffix = "." + entry.name.rpartition(".")[2]
        if suffix not in _TYPES:
            continue
        path = {"index.html": "/", "docs.html": "/docs"}.get(entry.name, f"/assets/{entry.name}")
        policy = (b"content-security-policy", _POLICIES.get(entry.name, _POLICY))
        handler = _asset(entry.read_bytes(), _TYPES[suffix], (policy, *_HEADERS))
        routes.append(Route("GET", path, RouteAccess.PUBLIC, handler))
    return routes


def _asset(body: bytes, content_type: bytes, headers: Headers) -> Callable[[Request], None]:
    return lambda request: request.respond(200, body, content_type, headers)
