"""`/livez` and `/readyz`: no key, no queue, no database."""

from __future__ import annotations

from collections.abc import Callable

from maas.gateway.http.request import Request

TEXT = b"text/plain; charset=utf-8"


def live(request: Request) -> None:
    """This process answers."""
    request.respond(200, b"ok\n", TEXT)


def ready_handler(has_snapshot: Callable[[], bool]) -> Callable[[Request], None]:
    """Ready means: it knows the keys and the deployments, and is not stopping."""

    def ready(request: Request) -> None:
        if request.connection.server.draining:
            request.respond(503, b"stopping\n", TEXT)
        elif not has_snapshot():
            request.respond(503, b"waiting for control\n", TEXT)
        else:
            request.respond(200, b"ok\n", TEXT)

    return ready
