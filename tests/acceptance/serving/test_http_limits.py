"""Every route without a key, with too small a key, and with hostile hosts and names."""

from __future__ import annotations

import itertools
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from fastapi.routing import APIRoute

from maas.control.api.principal import scope_of
from maas.control.app import create_app
from maas.domain.keys import Scope
from maas.gateway.app import Handlers, TaskHandlers, TextHandlers, route_table
from maas.gateway.http.routes import Route, RouteAccess
from maas.settings import ServerSettings
from tests.support.clients import raw_http
from tests.support.servers.protected import CANARY, SECRET_TEXT, ProtectedServer, protected_server

PUBLIC_PATHS = {"/livez", "/readyz", "/", "/docs"}
"""All public paths, besides `/assets/…` with the files of the console."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
VALUES = {
    "deployment": "echo",
    "model": "echo",
    "version": "1",
    "number": "1",
    "name": "echo",
    "sha256": "0" * 64,
    "key_id": "nothing",
    "job_id": "nothing",
    "*": "v1/status",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProtectedServer]:
    home: Path = tmp_path_factory.mktemp("h")
    with protected_server(home) as server:
        yield server


def gateway_routes() -> list[Route]:
    blank = cast(Any, _AnyAttribute())
    ready = Route("GET", "/readyz", RouteAccess.PUBLIC, blank)
    metrics = Route("GET", "/metrics", Scope.READ, blank)
    handlers = Handlers(
        blank, blank, TextHandlers(blank), TaskHandlers(blank), blank, ready, metrics
    )
    return list(route_table(handlers, ServerSettings()).routes)


class _AnyAttribute:
    def __getattr__(self, name: str) -> Any:
        return self


def control_routes() -> list[tuple[str, str, Scope]]:
    """(method, path, scope) of all routes of control."""
    routes = []
    for route in create_app(None).routes:
        assert isinstance(route, APIRoute), route
        routes += [(method, route.path, scope_of(route)) for method in sorted(route.methods or ())]
    return routes


def filled(pattern: str) -> str:
    for name, value in VALUES.items():
        pattern = pattern.replace("{" + name + "}", value)
    assert "{" not in pattern, pattern
    return pattern


def documented_scope(method: str, path: str) -> Scope:
    """The scope that the documentation requires for a path."""
    if path.startswith(("/api/v1/keys", "/api/v1/logs")):
        return Scope.ADMIN
    if path.startswith(("/openapi.json", "/predict", "/explain", "/v1", "/v2", "/rerank")):
        return Scope.CALL
    return Scope.READ if method in ("GET", "HEAD") else Scope.WRITE


GATEWAY = gateway_routes()
CONTROL = control_routes()
PATHS = sorted({filled(r.pattern) for r in GATEWAY} | {filled(p) for _, p, _ in CONTROL})


def is_public(path: str) -> bool:
    return path in PUBLIC_PATHS or path.startswith("/assets/")


def test_the_tables_are_not_empty() -> None:
    assert len(GATEWAY) > 20
    assert len(CONTROL) > 20
    public = {r.pattern for r in GATEWAY if r.access is RouteAccess.PUBLIC}
    assert {p for p in public if not p.startswith("/assets/")} == PUBLIC_PATHS


def test_every_route_declares_the_documented_scope() -> None:
    assert [(m, p, s) for m, p, s in CONTROL if s is not documented_scope(m, p)] == []
    scoped = [r for r in GATEWAY if isinstance(r.access, Scope)]
    assert [r for r in scoped if r.access is not documented_scope(r.method, r.pattern)] == []
    others = {r.pattern for r in GATEWAY if r.access is RouteAccess.ANY_KEY}
    assert others == {"/openapi.json", "/api/{*}"}


@pytest.mark.parametrize("path", [*PATHS, "/nothing", "/api", "/api/v1/nothing", "/assets/nothing"])
def test_without_a_key_every_path_and_method_answers_401(
    server: ProtectedServer, path: str
) -> None:
    for method in METHODS:
        if method in ("GET", "HEAD") and is_public(path) and path != "/assets/nothing":
            assert server.request(method, path).status == 200
            continue
        answer = server.request(method, path)
        assert answer.status == 401, (method, path, answer)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        if method != "HEAD":
            assert " " in answer.sentence


INVALID_TOKENS = (
    "",
    "maas_",
    "maas_0_0",
    "' OR 1=1 --",
    "'; DROP TABLE keys; --",
    "maas_%' OR '1'='1",
    '" OR ""="',
    "x" * 20_000,
    "\xff\xfe",
    "null",
    "../../admin.key",
    "{{7*7}}",
)


@pytest.mark.parametrize("token", INVALID_TOKENS)
def test_invalid_keys_are_refused(server: ProtectedServer, token: str) -> None:
    for path in ("/v2", "/api/v1/status", "/metrics"):
        assert server.request("GET", path, token).status == 401
        assert server.request("GET", path, X_API_Key=token).status == 401
        assert server.request("GET", path, Authorization=f"Basic {token}").status == 401
        assert server.request("GET", f"{path}?key={server.keys['admin']}").status == 401
    assert server.request("GET", "/v2", server.keys["revoked"]).status == 401
    valid = server.keys["call"]
    for similar in (valid[:-1], valid + "x", valid.upper(), valid.replace("maas_", "")):
        assert server.request("GET", "/v2", similar).status == 401


def test_a_key_without_the_scope_is_refused_with_its_name(server: ProtectedServer) -> None:
    order = [Scope.CALL, Scope.READ, Scope.WRITE, Scope.ADMIN]
    for method, pattern, required in CONTROL:
        for scope in order:
            if scope in (required, Scope.ADMIN) or pattern == "/openapi.json":  # any key may use it
                continue
            answer = server.request(method, filled(pattern), server.keys[scope])
            assert answer.status == 403, (method, pattern, scope, answer)
            assert method == "HEAD" or str(required) in answer.sentence
    for route in GATEWAY:
        if isinstance(route.access, Scope):
            for scope in set(order) - {route.access, Scope.ADMIN}:
                answer = server.request(route.method, filled(route.pattern), server.keys[scope])
                assert answer.status == 403, (route.pattern, scope)


def test_headers_cannot_claim_an_identity(server: ProtectedServer) -> None:
    claims = {"x_maas_key_id": "admin", "x_maas_key_name": "admin", "x_maas_scopes": "admin"}
    assert server.request("GET", "/api/v1/keys", **claims).status == 401
    for name in ("call", "read", "write"):
        assert server.request("GET", "/api/v1/keys", server.keys[name], **claims).status == 403
    assert server.request("GET", "/api/v1/keys", server.keys["admin"], **claims).status == 200


HOSTS = (
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "evil.example:80",
    "localhost@evil.example",
    "evil.example@localhost",
    "127.0.0.1:8000:9",
    "localhost:",
    "localhost:x",
    "localhost/evil",
    "localhost\\evil",
    "localhost evil.example",
    "localhost,evil.example",
    "[::1].evil.example",
    "[::ffff:127.0.0.1]",
    "0.0.0.0",
    "0",
    "2130706433",
    "127.1",
    "loc\u00e4lhost",
    "localhost\x00",
    "",
    "x" * 5000,
)


@pytest.mark.parametrize("host", HOSTS)
def test_a_foreign_host_is_refused(server: ProtectedServer, host: str) -> None:
    admin = server.keys["admin"]
    for method, path, token in (
        ("GET", "/livez", None),
        ("GET", "/", None),
        ("GET", "/api/v1/keys", admin),
        ("POST", "/predict/echo", admin),
    ):
        answer = server.request(method, path, token, Host=host)
        assert answer.status == 400, (host, path, answer)


def test_a_request_must_have_exactly_one_host(server: ProtectedServer) -> None:
    assert server.request("GET", "/livez", Host="-").status == 400
    for lines in (b"Host: localhost\r\nHost: evil.example\r\n",
                  b"Host: localhost\r\nhost: localhost\r\n"):  # fmt: skip
        answer = raw_http.exchange(server.stack.port, b"GET /livez HTTP/1.1\r\n" + lines + b"\r\n")
        assert answer is not None
        assert answer.status == 400
    for target in ("http://evil.example/livez", "//evil.example/livez", "evil.example:443", "*"):
        assert 400 <= server.request("GET", target, server.keys["admin"]).status < 500


def test_pages_of_other_sites_cannot_change_anything(server: ProtectedServer) -> None:
    for origin in ("https://evil.example", "null", "http://localhost.evil.example", "file://"):
        answer = server.request("POST", "/predict/echo", server.keys["admin"], Origin=origin)
        assert answer.status == 403, origin


PARENTS = ("..", "%2e%2e", "%2E.", ".%2e", "%252e%252e", "%c0%ae%c0%ae", "%e0%80%ae%e0%80%ae",
       "\u2024\u2024", "%ef%bc%8e%ef%bc%8e", "%u002e%u002e", "..;", "...", "....",
       "%00..", "..%00", "~", "..%20", "%20..")  # fmt: skip
SLASHES = ("/", "%2f", "%2F", "%252f", "\\", "%5c", "%c0%af", "%ef%bc%8f", "//", "/./", ";/")
FILES = (CANARY, "admin.key", "run/settings.json", "maas.db", "etc/passwd")


def traversals() -> list[str]:
    names = [
        (up + slash) * depth + where
        for up, slash in itertools.product(PARENTS, SLASHES)
        for depth, where in ((1, CANARY), (2, "admin.key"))
    ]
    names += [f"{up}/" * 12 + where for up, where in itertools.product(PARENTS, FILES)]
    names += ["/etc/passwd", "%2fetc%2fpasswd", "//etc/passwd", "file:///etc/passwd"]
    names += ["%00", "echo%00", "echo%00.png", "echo%0d%0aX-Evil:%201", "echo%0a", ".", "%2e"]
    names += ["-", "_", "%", "%zz", "%ff", "%25", "%F0%9F%98%80", "x" * 300, "x" * 7000]
    names += ["CON", "C:\\boot.ini", "ECHO", "echo;admin=1", "echo?", "echo#x", "echo:1"]
    names += ["echo:1:2", "echo%3a99999999999999999999", "'%20OR%201=1%20--", "echo'--"]
    names += ["';%20DROP%20TABLE%20versions;%20--", "%27%20UNION%20SELECT%20token"]
    names += ["${jndi:ldap://x}", "{{7*7}}", "<script>", "%3Cscript%3E", "*", "echo/", "+", "@"]
    names += ["latest/..", "0", "-1", "1e3", "9" * 30, "\u0661"]
    return names


POSITIONS = (
    ("POST", "/predict/{}"),
    ("POST", "/explain/{}"),
    ("POST", "/v2/models/{}/infer"),
    ("POST", "/v2/models/echo/versions/{}/infer"),
    ("GET", "/v2/models/{}"),
    ("GET", "/v2/models/echo/versions/{}/ready"),
    ("GET", "/api/v1/models/{}"),
    ("GET", "/api/v1/models/{}/versions/1"),
    ("GET", "/api/v1/models/echo/versions/{}"),
    ("POST", "/api/v1/models/{}/versions"),
    ("GET", "/api/v1/files/{}"),
    ("PUT", "/api/v1/files/{}"),
    ("GET", "/api/v1/deployments/{}"),
    ("PUT", "/api/v1/deployments/{}"),
    ("DELETE", "/api/v1/deployments/{}"),
    ("POST", "/api/v1/deployments/{}/rollback"),
    ("DELETE", "/api/v1/keys/{}"),
    ("GET", "/api/v1/jobs/{}"),
    ("PATCH", "/api/v1/jobs/{}"),
    ("POST", "/api/v1/jobs/{}/cancel"),
    ("GET", "/api/v1/logs/{}"),
    ("GET", "/assets/{}"),
    ("GET", "/{}"),
)
SAME_NAME = {"echo?", "echo#x", "echo/"}
"""Spellings of `echo`, which exists."""


@pytest.mark.parametrize(("method", "pattern"), POSITIONS)
def test_no_name_leads_to_a_file_outside(
    server: ProtectedServer, method: str, pattern: str
) -> None:
    names = traversals()
    assert len(names) > 100
    secrets = [SECRET_TEXT.encode(), b"root:", b"SQLite format", server.stack.token.encode()]
    stack = server.stack
    body = b"{}" if method in ("POST", "PUT", "PATCH") else b""
    headers = {"Host": "localhost", "Authorization": f"Bearer {stack.token}"}
    if body:
        headers |= {"Content-Type": "application/json", "Content-Length": "2"}
    for name in names:
        if method == "DELETE" and name in SAME_NAME:
            continue
        target = pattern.replace("{}", name)
        start = f"{method} {target} HTTP/1.1"
        lines = [start, *(f"{k}: {v}" for k, v in headers.items()), "", ""]
        answer = raw_http.exchange(stack.port, "\r\n".join(lines).encode() + body)
        assert answer is not None, target
        if name not in SAME_NAME or answer.status >= 500:
            assert 400 <= answer.status < 500, (method, target, answer)
        assert "x-evil" not in answer.headers
        assert not any(secret in answer.body for secret in secrets), (target, answer)
    assert server.request("GET", "/api/v1/deployments/echo", stack.token).status == 200


def test_only_the_configured_port_listens(server: ProtectedServer) -> None:
    listening = set()
    supervisor = psutil.Process(server.stack.supervisor.pid)
    processes = [supervisor, *server.stack.processes()]
    assert len(processes) >= 4
    for process in processes:
        for connection in process.net_connections("inet"):
            if connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE):
                listening.add(tuple(connection.laddr))
    assert listening == {("127.0.0.1", server.stack.port)}


def test_only_the_owner_can_read_the_files(server: ProtectedServer) -> None:
    home = server.stack.home
    shared = [
        (str(path.relative_to(home)), oct(path.lstat().st_mode))
        for path in home.rglob("*")
        if path.name != "up.log" and stat.S_IMODE(path.lstat().st_mode) & 0o077
    ]
    assert shared == []
    assert (home / "admin.key").is_file()
    assert stat.S_IMODE((home / "run" / "control.sock").stat().st_mode) & 0o077 == 0


def test_no_key_is_stored_or_logged(server: ProtectedServer) -> None:
    """Neither in a log, file, database, answer nor process table, after all tests above."""
    stack = server.stack
    tokens = [stack.token, *server.keys.values()]
    secrets = [token.encode() for token in tokens]
    # The part after "maas_" and the key's id; it may have underscores.
    secrets += [token.split("_", 2)[2].encode() for token in tokens]
    assert min(map(len, secrets)) > 40
    for path in stack.home.rglob("*"):
        if path.is_file() and path.name != "admin.key":
            data = path.read_bytes()
            assert not any(secret in data for secret in secrets), path
    with sqlite3.connect(stack.home / "maas.db") as database:
        dump = "\n".join(database.iterdump()).encode()
    assert b"only-admin" in dump
    assert not any(secret in dump for secret in secrets)
    for target in ("/metrics", "/api/v1/status", "/api/v1/keys", "/api/v1/usage",
                   "/api/v1/logs/control", "/api/v1/logs/gateway", "/openapi.json"):  # fmt: skip
        answer = server.request("GET", target, stack.token)
        assert answer.status == 200, target
        assert not any(secret in answer.body for secret in secrets), target
    for process in [psutil.Process(stack.supervisor.pid), *stack.processes()]:
        text = " ".join(process.cmdline()) + str(process.environ())
        assert not any(token in text for token in tokens)
