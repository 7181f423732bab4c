"""The HTTP server: connections, the checks on each request, and an orderly end."""

from __future__ import annotations

import asyncio
import logging
import resource
import secrets
import socket
import ssl
import time
from collections.abc import Callable
from email.utils import formatdate

from maas.domain.errors import (
    Forbidden,
    MaasError,
    MethodNotAllowed,
    NotFound,
    Unavailable,
    UnsupportedMediaType,
)
from maas.domain.keys import Scope
from maas.domain.names import shown
from maas.gateway.http.auth import HostCheck, KeyRing, require
from maas.gateway.http.body_memory import BodyMemory
from maas.gateway.http.busy_poll import BusyPoll
from maas.gateway.http.connection import Connection
from maas.gateway.http.request import Request, RequestHead, media_type
from maas.gateway.http.routes import JSON_ONLY, Route, RouteAccess, RouteTable

log = logging.getLogger(__name__)

DRAIN_GRACE_SECONDS = 0.5
"""After the end is announced, how long idle connections may still send a request."""
LAST_WORDS_SECONDS = 0.5
"""How long those whose answers are cut may take to read why."""
MAX_KNOWN_HEADS = 4096
MAX_KNOWN_HEAD_BYTES = 4096

TLS_HANDSHAKE_SECONDS = 10.0
MAX_CONNECTIONS = 10_000
RESERVED_FILES = 256
"""Of the files this process may open, not for clients: replicas, control, logs, libraries."""


def max_connections() -> int:
    """How many clients may be connected before the process runs out of files."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return min(MAX_CONNECTIONS, max(files - RESERVED_FILES, files // 2))


class HttpServer:
    def __init__(
        self,
        routes: RouteTable,
        keys: KeyRing,
        hosts: HostCheck,
        busy_poll: BusyPoll | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.busy_poll = busy_poll or BusyPoll(self.loop, 0.0, lambda: False)
        self.draining = False
        self.date_line = b""
        self._routes = routes
        self._keys = keys
        self._hosts = hosts
        self._connections: set[Connection] = set()
        self._listener: asyncio.Server | None = None
        self.heads: dict[bytes, RequestHead] = {}
        self.body_memory = BodyMemory()
        self._max_connections = max_connections()
        self._idlest: list[Connection] | None = None
        self._tick()

    # -- life -------------------------------------------------------------------------------

    async def listen(self, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        self._listener = await self.loop.create_server(
            lambda: Connection(self),
            sock=listening,
            ssl=tls,
            backlog=2048,
            ssl_handshake_timeout=TLS_HANDSHAKE_SECONDS if tls else None,
        )

    async def drain(self, seconds: float, cut: Callable[[], None] | None = None) -> None:
        """Take no new connections, answer what was accepted, close; at most `seconds`. Then `cut`
        may tell whoever is still being answered, before the connections are broken off."""
        self.draining = True
        if self._listener is not None:
            self._listener.close()
        ends = self.loop.time() + seconds
        await asyncio.sleep(min(DRAIN_GRACE_SECONDS, seconds))
        await self._close_idle(ends)
        if cut is not None and self._connections:
            cut()
            await self._close_idle(self.loop.time() + LAST_WORDS_SECONDS)
        for connection in list(self._connections):
            connection.abort()

    async def _close_idle(self, ends: float) -> None:
        """Until all connections are closed, or the loop's time is `ends`."""
        while self._connections and self.loop.time() < ends:
            for connection in list(self._connections):
                connection.close_if_idle()
            await asyncio.sleep(0.02)

    def opened(self, connection: Connection) -> None:
        has_room = len(self._connections) < self._max_connections or self._make_room()
        self._connections.add(connection)
        if not has_room:
            connection.abort()

    def _make_room(self) -> bool:
        """Close the connection that has been idle for longest; False if none is idle.

        Sorted once a second at most, or a flood of connections would keep us sorting.
        """
        if self._idlest is None:
            idle = [connection for connection in self._connections if connection.is_idle]
            self._idlest = sorted(idle, key=lambda connection: -connection.idle_since)
        while self._idlest:
            connection = self._idlest.pop()
            if connection in self._connections and connection.is_idle:
                connection.close_if_idle()
                return True
        return False

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def _tick(self) -> None:
        """Once a second: the Date header, and a look at every connection's pace."""
        self.loop.call_later(1.0, self._tick)
        self.date_line = b"date: " + formatdate(usegmt=True).encode() + b"\r\n\r\n"
        now = time.monotonic()
        self._idlest = None
        for connection in list(self._connections):
            connection.check_pace(now)

    # -- requests ---------------------------------------------------------------------------

    def begin(self, head: RequestHead) -> int:
        """Match, check host and key, and say how large the body may be; raises to refuse."""
        missing: MaasError | None = None
        route = None
        authority, head.target = _origin_form(head.target)
        try:
            route, head.params = self._routes.match(head.method, head.target)
            head.error_shape = route.error_shape
        except (NotFound, MethodNotAllowed) as error:
            missing = error
        self._hosts.check(head.method, head.headers)
        if authority:
            self._hosts.check_host(authority)
        if route is None or route.access is not RouteAccess.PUBLIC:
            # Who may not call learns nothing of what is here to be called.
            head.key = self._keys.authenticate(head.headers)
        if route is None:
            raise missing or NotFound()
        if isinstance(route.access, Scope):
            if head.key is None:
                raise Forbidden()
            require(head.key, route.access)
        if self.draining and not route.while_draining and head.key is None:
            raise Unavailable("the server is stopping", retry_after=1.0)
        head.streams_body = route.streams_body
        head.handler = route.handler
        if not route.max_body:
            return 0
        is_json = _checked_content_type(head, route) in JSON_ONLY
        return route.max_json if is_json and route.max_json is not None else route.max_body

    def remember_head(self, raw: bytes, head: RequestHead) -> None:
        if len(self.heads) >= MAX_KNOWN_HEADS:
            self.heads.clear()
        if len(raw) <= MAX_KNOWN_HEAD_BYTES:
            self.heads[raw] = head

    def forget_heads(self) -> None:
        """Keys or what they may do have changed: every head is to be checked anew."""
        self.heads.clear()

    def handle(self, request: Request) -> None:
        try:
            handler = request.head.handler
            if handler is not None:
                handler(request)
        except MaasError as error:
            request.fail(error)
        except Exception:
            incident = secrets.token_hex(8)
            log.exception("incident %s", incident)
            request.fail(MaasError("an internal error; the server's log has it", incident=incident))


def _origin_form(target: bytes) -> tuple[bytes, bytes]:
    """Authority (b"" if it names none) and path of a target, which clients that take us for a
    proxy write as a whole URL (RFC 9112, 3.2.2)."""
    scheme, found, rest = target.partition(b"://")
    if not found or scheme.lower() not in (b"http", b"https"):
        return b"", target
    end = min((at for at in map(rest.find, (b"/", b"?")) if at >= 0), default=len(rest))
    path = rest[end:]
    return rest[:end] or b"?", path if path.startswith(b"/") else b"/" + path


def _checked_content_type(head: RequestHead, route: Route) -> bytes:
    """The body's type without its parameters; raises UnsupportedMediaType."""
    encoding = head.headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding != b"identity":
        # Taken as it is, it would be read as something else than what its sender means.
        raise UnsupportedMediaType(
            f"expected a body without Content-Encoding, got {shown(encoding.decode('latin-1'))}"
        )
    given = media_type(head.headers)
    known = route.content_types
    all_alike = b"%b/*" % given.partition(b"/")[0] if b"/" in given else given
    if known and given not in known and all_alike not in known:
        wanted = " or ".join(t.decode() for t in route.content_types)
        raise UnsupportedMediaType(
            f"expected Content-Type {wanted}, got {given.decode('ascii', 'replace') or 'none'}"
        )
    return given
