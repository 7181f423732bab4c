"""`/livez` and `/readyz`, which need no key, no replica and no database."""

from __future__ import annotations

from collections.abc import Callable

from maas.gateway.http.request import Request

TEXT = b"text/plain; charset=utf-8"


def live(request: Request) -> None:
    """Answer that this process runs."""
    request.respond(200, b"ok\n", TEXT)


def ready_handler(has_snapshot: Callable[[], bool]) -> Callable[[Request], None]:
    """A handler that answers 200 if the gateway has a snapshot and is not stopping, else 503."""

    def ready(request: Request) -> None:
        if request.connection.server.draining:
            request.respond(503, b"stopping\n", TEXT)
        elif not has_snapshot():
            request.respond(503, b"waiting for control\n", TEXT)
        else:
            request.respond(200, b"ok\n", TEXT)

    return ready
