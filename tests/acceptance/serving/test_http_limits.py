"""Every door without a key, with too small a key, and with a hostile address."""

from __future__ import annotations

import itertools
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import dataclass
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
from tests.support.models.onnx import echo_model
from tests.support.servers.maas import Stack, running, wait_until

OPEN_TO_ALL = {"/livez", "/readyz", "/", "/docs"}
"""The exact list; and `/assets/…`, whatever files the console has."""
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
CANARY = "canary"
"""A file beside the home and in it, to be led to; it holds SONG."""
SONG = "tweet-8c1f0a"


@dataclass
class Doors:
    stack: Stack
    keys: dict[str, str]
    """Tokens by the scope they have, and `revoked`."""

    def ask(
        self, method: str, target: str, token: str | None = None, **headers: str
    ) -> raw_http.Answer:
        body = b"{}" if method in ("POST", "PUT", "PATCH") else b""
        named = {"Host": "localhost"}
        if body:
            named |= {"Content-Type": "application/json", "Content-Length": "2"}
        if token is not None:
            named["Authorization"] = f"Bearer {token}"
        named |= {k.replace("_", "-"): v for k, v in headers.items()}
        sent = raw_http.head(method, target, {k: v for k, v in named.items() if v != "-"})
        answer = raw_http.exchange(self.stack.port, sent + body)
        assert answer is not None, (method, target)
        return answer


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    home: Path = tmp_path_factory.mktemp("h")
    (home.parent / CANARY).write_text(SONG)
    with running(home) as stack:
        client = stack.client()
        client.publish(echo_model(home.parent / "echo.onnx"), name="echo", example=[1.0, 2.0])
        client.deploy("echo")
        (home / CANARY).write_text(SONG)
        (home / CANARY).chmod(0o600)
        keys = {s: client.keys.create(f"only-{s}", scopes=[s]) for s in Scope}
        gone = client.keys.create("gone", scopes=["admin"])
        client.keys.revoke(gone.key.id)
        made = Doors(stack, {str(s): k.token for s, k in keys.items()} | {"revoked": gone.token})
        wait_until(lambda: made.ask("GET", "/v2", made.keys["call"]).status == 200)
        wait_until(lambda: made.ask("GET", "/v2", gone.token).status == 401)
        yield made


def gateway_routes() -> list[Route]:
    nobody = cast(Any, _Anything())
    ready = Route("GET", "/readyz", RouteAccess.PUBLIC, nobody)
    metrics = Route("GET", "/metrics", Scope.READ, nobody)
    handlers = Handlers(
        nobody, nobody, TextHandlers(nobody), TaskHandlers(nobody), nobody, ready, metrics
    )
    return list(route_table(handlers, ServerSettings()).routes)


class _Anything:
    def __getattr__(self, name: str) -> Any:
        return self


def control_routes() -> list[tuple[str, str, Scope]]:
    """(method, path, scope) of all that control answers."""
    found = []
    for route in create_app(None).routes:
        assert isinstance(route, APIRoute), route
        found += [(method, route.path, scope_of(route)) for method in sorted(route.methods or ())]
    return found


def filled(pattern: str) -> str:
    for name, value in VALUES.items():
        pattern = pattern.replace("{" + name + "}", value)
    assert "{" not in pattern, pattern
    return pattern


def promised(method: str, path: str) -> Scope:
    """The scope that the documentation says a path needs, written down a second time."""
    if path.startswith(("/api/v1/keys", "/api/v1/logs")):
        return Scope.ADMIN
    if path.startswith(("/openapi.json", "/predict", "/explain", "/v1", "/v2", "/rerank")):
        return Scope.CALL
    return Scope.READ if method in ("GET", "HEAD") else Scope.WRITE


GATEWAY = gateway_routes()
CONTROL = control_routes()
PATHS = sorted({filled(r.pattern) for r in GATEWAY} | {filled(p) for _, p, _ in CONTROL})


def is_open(path: str) -> bool:
    return path in OPEN_TO_ALL or path.startswith("/assets/")


def test_the_tables_are_not_empty() -> None:
    assert len(GATEWAY) > 20
    assert len(CONTROL) > 20
    public = {r.pattern for r in GATEWAY if r.access is RouteAccess.PUBLIC}
    assert {p for p in public if not p.startswith("/assets/")} == OPEN_TO_ALL


def test_every_route_declares_the_scope_that_is_promised() -> None:
    assert [(m, p, s) for m, p, s in CONTROL if s is not promised(m, p)] == []
    scoped = [r for r in GATEWAY if isinstance(r.access, Scope)]
    assert [r for r in scoped if r.access is not promised(r.method, r.pattern)] == []
    others = {r.pattern for r in GATEWAY if r.access is RouteAccess.ANY_KEY}
    assert others == {"/openapi.json", "/api/{*}"}


# -- no key, a wrong key, too small a key --------------------------------------------------------


@pytest.mark.parametrize("path", [*PATHS, "/nothing", "/api", "/api/v1/nothing", "/assets/nothing"])
def test_without_a_key_every_path_and_method_says_401(doors: Doors, path: str) -> None:
    for method in METHODS:
        if method in ("GET", "HEAD") and is_open(path) and path != "/assets/nothing":
            assert doors.ask(method, path).status == 200
            continue
        answer = doors.ask(method, path)
        assert answer.status == 401, (method, path, answer)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        if method != "HEAD":
            assert " " in answer.sentence


WRONG_KEYS = (
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


@pytest.mark.parametrize("token", WRONG_KEYS)
def test_a_wrong_key_is_no_key(doors: Doors, token: str) -> None:
    for path in ("/v2", "/api/v1/status", "/metrics"):
        assert doors.ask("GET", path, token).status == 401
        assert doors.ask("GET", path, X_API_Key=token).status == 401
        assert doors.ask("GET", path, Authorization=f"Basic {token}").status == 401
        assert doors.ask("GET", f"{path}?key={doors.keys['admin']}").status == 401
    assert doors.ask("GET", "/v2", doors.keys["revoked"]).status == 401
    good = doors.keys["call"]
    for nearly in (good[:-1], good + "x", good.upper(), good.replace("maas_", "")):
        assert doors.ask("GET", "/v2", nearly).status == 401


def test_a_key_that_may_not_is_told_so(doors: Doors) -> None:
    order = [Scope.CALL, Scope.READ, Scope.WRITE, Scope.ADMIN]
    for method, pattern, needed in CONTROL:
        for scope in order:
            if scope in (needed, Scope.ADMIN) or pattern == "/openapi.json":  # for any key
                continue
            answer = doors.ask(method, filled(pattern), doors.keys[scope])
            assert answer.status == 403, (method, pattern, scope, answer)
            assert method == "HEAD" or str(needed) in answer.sentence
    for route in GATEWAY:
        if isinstance(route.access, Scope):
            for scope in set(order) - {route.access, Scope.ADMIN}:
                answer = doors.ask(route.method, filled(route.pattern), doors.keys[scope])
                assert answer.status == 403, (route.pattern, scope)


def test_who_somebody_is_cannot_be_claimed_in_a_header(doors: Doors) -> None:
    claims = {"x_maas_key_id": "admin", "x_maas_key_name": "admin", "x_maas_scopes": "admin"}
    assert doors.ask("GET", "/api/v1/keys", **claims).status == 401
    for name in ("call", "read", "write"):
        assert doors.ask("GET", "/api/v1/keys", doors.keys[name], **claims).status == 403
    assert doors.ask("GET", "/api/v1/keys", doors.keys["admin"], **claims).status == 200


# -- addresses ------------------------------------------------------------------------------------

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
def test_a_foreign_host_is_refused(doors: Doors, host: str) -> None:
    admin = doors.keys["admin"]
    for method, path, token in (
        ("GET", "/livez", None),
        ("GET", "/", None),
        ("GET", "/api/v1/keys", admin),
        ("POST", "/predict/echo", admin),
    ):
        answer = doors.ask(method, path, token, Host=host)
        assert answer.status == 400, (host, path, answer)


def test_a_request_names_its_host_once(doors: Doors) -> None:
    assert doors.ask("GET", "/livez", Host="-").status == 400
    for lines in (b"Host: localhost\r\nHost: evil.example\r\n",
                  b"Host: localhost\r\nhost: localhost\r\n"):  # fmt: skip
        answer = raw_http.exchange(doors.stack.port, b"GET /livez HTTP/1.1\r\n" + lines + b"\r\n")
        assert answer is not None
        assert answer.status == 400
    for target in ("http://evil.example/livez", "//evil.example/livez", "evil.example:443", "*"):
        assert 400 <= doors.ask("GET", target, doors.keys["admin"]).status < 500


def test_another_sites_page_cannot_change_anything(doors: Doors) -> None:
    for origin in ("https://evil.example", "null", "http://localhost.evil.example", "file://"):
        answer = doors.ask("POST", "/predict/echo", doors.keys["admin"], Origin=origin)
        assert answer.status == 403, origin


# -- names ----------------------------------------------------------------------------------------

UPS = ("..", "%2e%2e", "%2E.", ".%2e", "%252e%252e", "%c0%ae%c0%ae", "%e0%80%ae%e0%80%ae",
       "\u2024\u2024", "%ef%bc%8e%ef%bc%8e", "%u002e%u002e", "..;", "...", "....",
       "%00..", "..%00", "~", "..%20", "%20..")  # fmt: skip
SLASHES = ("/", "%2f", "%2F", "%252f", "\\", "%5c", "%c0%af", "%ef%bc%8f", "//", "/./", ";/")
WHERE = (CANARY, "admin.key", "run/settings.json", "maas.db", "etc/passwd")


def traversals() -> list[str]:
    found = [
        (up + slash) * depth + where
        for up, slash in itertools.product(UPS, SLASHES)
        for depth, where in ((1, CANARY), (2, "admin.key"))
    ]
    found += [f"{up}/" * 12 + where for up, where in itertools.product(UPS, WHERE)]
    found += ["/etc/passwd", "%2fetc%2fpasswd", "//etc/passwd", "file:///etc/passwd"]
    found += ["%00", "echo%00", "echo%00.png", "echo%0d%0aX-Evil:%201", "echo%0a", ".", "%2e"]
    found += ["-", "_", "%", "%zz", "%ff", "%25", "%F0%9F%98%80", "x" * 300, "x" * 7000]
    found += ["CON", "C:\\boot.ini", "ECHO", "echo;admin=1", "echo?", "echo#x", "echo:1"]
    found += ["echo:1:2", "echo%3a99999999999999999999", "'%20OR%201=1%20--", "echo'--"]
    found += ["';%20DROP%20TABLE%20versions;%20--", "%27%20UNION%20SELECT%20token"]
    found += ["${jndi:ldap://x}", "{{7*7}}", "<script>", "%3Cscript%3E", "*", "echo/", "+", "@"]
    found += ["latest/..", "0", "-1", "1e3", "9" * 30, "\u0661"]
    return found


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
SAME_PLACE = {"echo?", "echo#x", "echo/"}
"""Spellings of `echo` itself, which is there."""


@pytest.mark.parametrize(("method", "pattern"), POSITIONS)
def test_no_name_leads_outside(doors: Doors, method: str, pattern: str) -> None:
    names = traversals()
    assert len(names) > 100
    secrets = [SONG.encode(), b"root:", b"SQLite format", doors.stack.token.encode()]
    asked = doors.stack
    body = b"{}" if method in ("POST", "PUT", "PATCH") else b""
    headers = {"Host": "localhost", "Authorization": f"Bearer {asked.token}"}
    if body:
        headers |= {"Content-Type": "application/json", "Content-Length": "2"}
    for name in names:
        if method == "DELETE" and name in SAME_PLACE:
            continue
        target = pattern.replace("{}", name)
        start = f"{method} {target} HTTP/1.1"
        lines = [start, *(f"{k}: {v}" for k, v in headers.items()), "", ""]
        answer = raw_http.exchange(asked.port, "\r\n".join(lines).encode() + body)
        assert answer is not None, target
        if name not in SAME_PLACE or answer.status >= 500:
            assert 400 <= answer.status < 500, (method, target, answer)
        assert "x-evil" not in answer.headers
        assert not any(secret in answer.body for secret in secrets), (target, answer)
    assert doors.ask("GET", "/api/v1/deployments/echo", asked.token).status == 200


# -- what else could be reached -------------------------------------------------------------------


def test_only_our_port_listens(doors: Doors) -> None:
    listening = set()
    supervisor = psutil.Process(doors.stack.supervisor.pid)
    processes = [supervisor, *doors.stack.processes()]
    assert len(processes) >= 4
    for process in processes:
        for connection in process.net_connections("inet"):
            if connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE):
                listening.add(tuple(connection.laddr))
    assert listening == {("127.0.0.1", doors.stack.port)}


def test_all_files_are_ours_alone(doors: Doors) -> None:
    home = doors.stack.home
    shared = [
        (str(path.relative_to(home)), oct(path.lstat().st_mode))
        for path in home.rglob("*")
        if path.name != "up.log" and stat.S_IMODE(path.lstat().st_mode) & 0o077
    ]
    assert shared == []
    assert (home / "admin.key").is_file()
    assert stat.S_IMODE((home / "run" / "control.sock").stat().st_mode) & 0o077 == 0


def test_no_key_is_written_anywhere(doors: Doors) -> None:
    """After all of the above: in no log, file, database, answer or process table."""
    stack = doors.stack
    tokens = [stack.token, *doors.keys.values()]
    secrets = [token.encode() for token in tokens]
    # After "maas_" and the key's id; a secret may itself hold underscores.
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
        answer = doors.ask("GET", target, stack.token)
        assert answer.status == 200, target
        assert not any(secret in answer.body for secret in secrets), target
    for process in [psutil.Process(stack.supervisor.pid), *stack.processes()]:
        seen = " ".join(process.cmdline()) + str(process.environ())
        assert not any(token in seen for token in tokens)
