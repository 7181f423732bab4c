"""The HTTP server: its connections, the checks of each request, and draining."""

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
from maas.gateway.http.read_timeouts import ReadTimeouts
from maas.gateway.http.request import Request, RequestHead, media_type
from maas.gateway.http.routes import JSON_ONLY, Route, RouteAccess, RouteTable

log = logging.getLogger(__name__)

DRAIN_GRACE_SECONDS = 0.5
"""How long idle connections may still send a request after draining has begun."""
CUT_GRACE_SECONDS = 0.5
"""How long clients whose answers are cut may take to read the error."""
MAX_CACHED_HEADS = 4096
MAX_CACHED_HEAD_BYTES = 4096

TLS_HANDSHAKE_SECONDS = 10.0
MAX_CONNECTIONS = 10_000
RESERVED_FILES = 256
"""Open files that are not for clients: replicas, control, logs, libraries."""


def max_connections() -> int:
    """How many clients may connect, given the process's limit on open files."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return min(MAX_CONNECTIONS, max(files - RESERVED_FILES, files // 2))


class HttpServer:
    """The server of one gateway process, on the running event loop."""

    def __init__(
        self,
        routes: RouteTable,
        keys: KeyRing,
        hosts: HostCheck,
        busy_poll: BusyPoll | None = None,
        read_timeouts: ReadTimeouts | None = None,
    ) -> None:
        """Without `busy_poll`, the server sleeps between requests."""
        self.loop = asyncio.get_running_loop()
        self.busy_poll = busy_poll or BusyPoll(self.loop, 0.0, lambda: False)
        self.read_timeouts = read_timeouts or ReadTimeouts()
        self.draining = False
        self.date_line = b""
        """The last line of every response's head, with the line that ends the head."""
        self._routes = routes
        self._keys = keys
        self._hosts = hosts
        self._connections: set[Connection] = set()
        self._listener: asyncio.Server | None = None
        self.heads: dict[bytes, RequestHead] = {}
        self.body_memory = BodyMemory()
        self._max_connections = max_connections()
        self._by_idle_time: list[Connection] | None = None
        """Idle connections, the longest idle one last; computed at most once a second."""
        self._tick()

    # -- lifecycle --------------------------------------------------------------------------

    async def listen(self, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        self._listener = await self.loop.create_server(
            lambda: Connection(self),
            sock=listening,
            ssl=tls,
            backlog=2048,
            ssl_handshake_timeout=TLS_HANDSHAKE_SECONDS if tls else None,
        )

    async def drain(self, seconds: float, cut: Callable[[], None] | None = None) -> None:
        """Accept no new connections, answer the requests in progress, and close.

        After `seconds`, `cut` may end streamed answers with an error. Then all connections are
        aborted.
        """
        self.draining = True
        if self._listener is not None:
            self._listener.close()
        end = self.loop.time() + seconds
        await asyncio.sleep(min(DRAIN_GRACE_SECONDS, seconds))
        await self._close_idle_until(end)
        if cut is not None and self._connections:
            cut()
            await self._close_idle_until(self.loop.time() + CUT_GRACE_SECONDS)
        for connection in list(self._connections):
            connection.abort()

    async def _close_idle_until(self, end: float) -> None:
        """Close connections as they become idle, until none is left or the loop's time is
        `end`."""
        while self._connections and self.loop.time() < end:
            for connection in list(self._connections):
                connection.close_if_idle()
            await asyncio.sleep(0.02)

    def opened(self, connection: Connection) -> None:
        has_room = len(self._connections) < self._max_connections or self._make_room()
        self._connections.add(connection)
        if not has_room:
            connection.abort()

    def _make_room(self) -> bool:
        """Close the connection that has been idle longest; False if none is idle.

        Connections are sorted at most once a second. Otherwise a flood of connections would cost
        too much time.
        """
        if self._by_idle_time is None:
            idle = [connection for connection in self._connections if connection.is_idle]
            self._by_idle_time = sorted(idle, key=lambda connection: -connection.idle_since)
        while self._by_idle_time:
            connection = self._by_idle_time.pop()
            if connection in self._connections and connection.is_idle:
                connection.close_if_idle()
                return True
        return False

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def _tick(self) -> None:
        """Once a second, update the Date header and check every connection's timeouts."""
        self.loop.call_later(1.0, self._tick)
        self.date_line = b"date: " + formatdate(usegmt=True).encode() + b"\r\n\r\n"
        now = time.monotonic()
        self._by_idle_time = None
        for connection in list(self._connections):
            connection.check_timeouts(now)

    # -- requests ---------------------------------------------------------------------------

    def begin(self, head: RequestHead) -> int:
        """Match the route and check host, key and content type; returns the largest allowed body
        in bytes.

        Raises MaasError to refuse the request.
        """
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
            # Before a NotFound: without a key, a client cannot find out which paths exist.
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
        if len(self.heads) >= MAX_CACHED_HEADS:
            self.heads.clear()
        if len(raw) <= MAX_CACHED_HEAD_BYTES:
            self.heads[raw] = head

    def forget_heads(self) -> None:
        """Clear the cache of accepted heads, because keys or their scopes have changed."""
        self.heads.clear()

    def handle(self, request: Request) -> None:
        """Call the route's handler; its exceptions become error responses."""
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
    """The authority, b"" if there is none, and the path of a request's target.

    Clients that use the server as a proxy send a complete URL (RFC 9112, 3.2.2).
    """
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        return b"", target
    end = min((at for at in map(rest.find, (b"/", b"?")) if at >= 0), default=len(rest))
    path = rest[end:]
    return rest[:end] or b"?", path if path.startswith(b"/") else b"/" + path


def _checked_content_type(head: RequestHead, route: Route) -> bytes:
    """The body's content type without parameters.

    Raises UnsupportedMediaType if the route does not accept it, or the body is compressed.
    """
    encoding = head.headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding != b"identity":
        # A compressed body would be decoded as if it were plain.
        raise UnsupportedMediaType(
            f"expected a body without Content-Encoding, got {shown(encoding.decode('latin-1'))}"
        )
    content_type = media_type(head.headers)
    accepted = route.content_types
    wildcard = content_type
    if b"/" in content_type:
        wildcard = b"%b/*" % content_type.partition(b"/")[0]
    if accepted and content_type not in accepted and wildcard not in accepted:
        expected = " or ".join(t.decode() for t in accepted)
        actual = content_type.decode("ascii", "replace") or "none"
        raise UnsupportedMediaType(f"expected Content-Type {expected}, got {actual}")
    return content_type
