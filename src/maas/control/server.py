"""HTTP server of control, on a socket that is already open."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator

import uvicorn

from maas.control.app import create_app
from maas.control.services import Services

DRAIN_S = 10
"""Time for open requests to finish after `stop`; then they are aborted."""


async def serve(services: Services, listening: socket.socket, stop: asyncio.Event) -> None:
    """Serves until `stop` is set and the open requests are answered."""
    # The application's error handlers log every failure with its request.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        create_app(services),
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=DRAIN_S,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    server.should_exit = True
    await serving


class _Server(uvicorn.Server):
    """A server that leaves signals to the process, which has more parts to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
