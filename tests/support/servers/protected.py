"""A server with one key per scope, for tests of access and hostile requests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from maas.domain.keys import Scope
from tests.support.clients import raw_http
from tests.support.models.onnx import echo_model
from tests.support.servers.maas import Stack, running, wait_until

CANARY = "canary"
"""The name of a file in the home and beside it that must not be reachable; it contains
SECRET_TEXT."""
SECRET_TEXT = "tweet-8c1f0a"


@dataclass
class ProtectedServer:
    """A server and keys for it."""

    stack: Stack
    keys: dict[str, str]
    """Tokens by their scope; and a revoked one as `revoked`."""

    def request(
        self, method: str, target: str, token: str | None = None, **headers: str
    ) -> raw_http.RawAnswer:
        body = b"{}" if method in ("POST", "PUT", "PATCH") else b""
        merged = {"Host": "localhost"}
        if body:
            merged |= {"Content-Type": "application/json", "Content-Length": "2"}
        if token is not None:
            merged["Authorization"] = f"Bearer {token}"
        merged |= {k.replace("_", "-"): v for k, v in headers.items()}
        sent = raw_http.head(method, target, {k: v for k, v in merged.items() if v != "-"})
        answer = raw_http.exchange(self.stack.port, sent + body)
        assert answer is not None, (method, target)
        return answer


@contextlib.contextmanager
def protected_server(home: Path) -> Iterator[ProtectedServer]:
    """A server with a key for each scope and a revoked one; it serves `echo`."""
    (home.parent / CANARY).write_text(SECRET_TEXT)
    with running(home) as stack:
        client = stack.client()
        client.publish(echo_model(home.parent / "echo.onnx"), name="echo", example=[1.0, 2.0])
        client.deploy("echo")
        (home / CANARY).write_text(SECRET_TEXT)
        (home / CANARY).chmod(0o600)
        keys = {s: client.keys.create(f"only-{s}", scopes=[s]) for s in Scope}
        revoked = client.keys.create("gone", scopes=["admin"])
        client.keys.revoke(revoked.key.id)
        server = ProtectedServer(
            stack, {str(s): k.token for s, k in keys.items()} | {"revoked": revoked.token}
        )
        wait_until(lambda: server.request("GET", "/v2", server.keys["call"]).status == 200)
        wait_until(lambda: server.request("GET", "/v2", revoked.token).status == 401)
        yield server
