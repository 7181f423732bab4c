"""The gateway process: one event loop between clients and replicas.

    python -m maas.processes.gateway --settings-json FILE --listen FD [--lifeline FD]
        [--log FILE BYTES FILES]

The supervisor owns the listening socket, so that connections wait in the kernel while a crashed
gateway is restarted.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import resource
import secrets
import socket
import ssl
import sys
from dataclasses import replace
from pathlib import Path

import uvloop

from maas.domain.keys import Scope
from maas.domain.snapshot import Snapshot
from maas.gateway.app import Handlers, TaskHandlers, TextHandlers, route_table
from maas.gateway.calls import CallContext
from maas.gateway.health import ready_handler
from maas.gateway.http.auth import HostCheck, KeyRing
from maas.gateway.http.busy_poll import BusyPoll
from maas.gateway.http.large_bodies import LargeBodies
from maas.gateway.http.routes import Route, RouteAccess
from maas.gateway.http.server import HttpServer
from maas.gateway.metering import Meter
from maas.gateway.metrics import metrics_handler
from maas.gateway.oip.infer import OipHandler
from maas.gateway.predict.tensors import PredictHandler
from maas.gateway.proxy import ControlProxy
from maas.gateway.snapshot_watch import SnapshotWatch
from maas.gateway.text.generation import TextService
from maas.gateway.text.task_service import TaskService
from maas.processes.lifeline import stop_event
from maas.processes.output import add_log_argument, start_logging
from maas.serving.routing.router import Router
from maas.settings import Settings
from maas.version import __version__

log = logging.getLogger(__name__)

MAX_OPEN_FILES = 16384
SETTLE_SECONDS = 1.0
"""Time at shutdown for engines to report the usage of stopped generations."""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--settings-json", type=Path, required=True)
    parser.add_argument("--listen", type=int, required=True)
    parser.add_argument("--lifeline", type=int, default=None)
    add_log_argument(parser)
    arguments = parser.parse_args()
    start_logging("gateway", arguments.log)
    settings = Settings.from_json(arguments.settings_json.read_text())
    _raise_file_limit()
    listening = socket.socket(fileno=arguments.listen)
    uvloop.run(serve(settings, listening, arguments.lifeline))
    return 0


def _raise_file_limit() -> None:
    """Raises the soft limit of open files: each connection needs one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


async def serve(settings: Settings, listening: socket.socket, lifeline: int | None) -> None:
    """Serves until SIGTERM or the end of the lifeline, then drains."""
    stop = stop_event(lifeline)
    server_settings = settings.server
    meter = Meter(settings.usage_dir, settings.run_dir, f"gateway-{secrets.token_hex(8)}")
    router = Router()
    keys = KeyRing()
    large_bodies = LargeBodies()
    context = CallContext(router, meter, large_bodies, server_settings.request_timeout_s)
    text_service = TextService(replace(context, timeout_s=server_settings.generation_timeout_s))
    handlers = Handlers(
        predict=PredictHandler(context),
        oip=OipHandler(context, __version__, server_settings.max_json_bytes),
        text=TextHandlers(text_service),
        tasks=TaskHandlers(TaskService(context)),
        proxy=ControlProxy(settings.control_socket, meter, router),
        ready=Route(
            "GET",
            "/readyz",
            RouteAccess.PUBLIC,
            ready_handler(lambda: watch.has_snapshot),
            while_draining=True,
        ),
        metrics=Route("GET", "/metrics", Scope.READ, metrics_handler(meter, router, __version__)),
    )
    hosts = HostCheck((server_settings.host, *server_settings.allowed_hosts))
    busy_poll = BusyPoll(
        asyncio.get_running_loop(), server_settings.busy_poll_us / 1e6, router.is_working
    )
    server = HttpServer(route_table(handlers, server_settings), keys, hosts, busy_poll)

    def apply(snapshot: Snapshot) -> None:
        keys.replace(snapshot.keys)
        server.forget_heads()
        router.apply(snapshot)
        text_service.stop_revoked(keys.is_valid)

    watch = SnapshotWatch(settings.snapshot_file, apply)
    keys.reload = watch.poll
    await server.listen(listening, _tls(settings))
    gc.collect()
    gc.freeze()
    await stop.wait()
    log.info("draining")
    await server.drain(server_settings.drain_s, text_service.stop_all)
    await text_service.settle(SETTLE_SECONDS)
    watch.close()
    await large_bodies.close()
    router.close()
    meter.close()
    await asyncio.sleep(0)


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if not settings.server.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.server.tls_cert, settings.server.tls_key or None)
    return context


if __name__ == "__main__":
    sys.exit(main())
