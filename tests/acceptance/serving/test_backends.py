"""The same behavior on SQLite and a folder as on PostgreSQL and S3."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from maas.domain.models import Evidence
from tests.support.models.onnx import echo_model
from tests.support.servers import backends
from tests.support.servers.backends import PostgresServer, S3Server
from tests.support.servers.maas import Stack, running, start, wait_until

SLOW_S = 60.0


@dataclass
class Backend:
    environment: dict[str, str] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    with backends.postgres() as server:
        yield server


@pytest.fixture(scope="module")
def artifacts() -> Iterator[S3Server]:
    with backends.s3() as server:
        yield server


@pytest.fixture
def remote(database: PostgresServer, artifacts: S3Server) -> Backend:
    """A backend with its own database and prefix."""
    name = f"t_{secrets.token_hex(6)}"
    with psycopg.connect(database.url(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    environment = {
        "MAAS_STORAGE__DATABASE_URL": database.url(name),
        "MAAS_STORAGE__ARTIFACTS_URL": f"s3://{artifacts.bucket}/some/{name}",
        "MAAS_STORAGE__S3_ENDPOINT": artifacts.endpoint,
        "MAAS_STORAGE__S3_ACCESS_KEY_ID": artifacts.access_key_id,
        "MAAS_STORAGE__S3_SECRET_ACCESS_KEY": artifacts.secret_access_key,
    }
    return Backend(environment, [database.password, artifacts.secret_access_key])


@pytest.fixture
def local() -> Backend:
    return Backend()


def publish(stack: Stack, name: str, scale: float = 1.0) -> str:
    """Publish a version of `name`; returns the SHA-256 of its file."""
    path = echo_model(stack.home.parent / f"{name}-{scale}.onnx", scale=scale)
    stack.client().publish(path, name=name, example=[1.0, 2.0])
    return hashlib.sha256(path.read_bytes()).hexdigest()


def answer(stack: Stack, name: str) -> list[float]:
    status, _, body = stack.request("POST", f"/predict/{name}", {"x": [3, 4]})
    assert status == 200, body
    values: list[float] = json.loads(body)["y"]
    return values


def recorded_requests(stack: Stack, name: str) -> int:
    return sum(u["requests"] for u in stack.client().usage(deployment=name))


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_all_state_survives_a_restart(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    backend: Backend = request.getfixturevalue(kind)
    is_local = kind == "local"
    home = tmp_path / "h"
    with running(home, backend.environment) as stack:
        client = stack.client()
        digest = publish(stack, "echo")
        client.deploy("echo")
        assert answer(stack, "echo") == [3.0, 4.0]
        second = publish(stack, "echo", 2.0)
        client.deploy("echo", version=2)
        assert answer(stack, "echo") == [6.0, 8.0]
        client.rollback("echo")
        assert answer(stack, "echo") == [3.0, 4.0]
        wait_until(lambda: recorded_requests(stack, "echo") == 3, SLOW_S, "three requests counted")
        client.add_evidence("echo:1", Evidence("latency", {"p99_ms": 1.5}, {"by": "hand"}))
        key = client.keys.create("caller", scopes=["call"])
        status = client.status()
        assert status["database"].startswith("sqlite" if is_local else "postgresql")
        assert status["artifacts_url"].startswith("file" if is_local else "s3://")
        assert stack.stop() == 0

        port = stack.port
        again = start(home, environment=backend.environment, port=port)
        try:
            again.wait_ready("echo", SLOW_S)
            assert answer(again, "echo") == [3.0, 4.0]
            wait_until(
                lambda: recorded_requests(again, "echo") == 4, SLOW_S, "four requests counted"
            )
            restarted = again.client()
            assert [v["number"] for v in restarted.models.get("echo")["versions"]] == [1, 2]
            for sha256 in (digest, second):
                assert hashlib.sha256(restarted.files.download(sha256)).hexdigest() == sha256
            assert [e.values for e in restarted.evidence("echo:1")] == [{"p99_ms": 1.5}]
            assert again.request("GET", "/v2", token=key.token)[0] == 200
            if not is_local:
                assert not (home / "maas.db").exists()
                assert not (home / "artifacts").exists()
                assert_no_secret_leaks(again, backend)
        finally:
            assert again.stop() == 0


def assert_no_secret_leaks(stack: Stack, backend: Backend) -> None:
    assert len(backend.secrets) == 2
    texts = [stack.request("GET", path)[2] for path in ("/api/v1/status", "/metrics")]
    texts += [path.read_bytes() for path in (stack.home / "logs").iterdir()]
    texts += [" ".join(process.cmdline()).encode() for process in stack.processes()]
    assert not any(secret.encode() in text for secret in backend.secrets for text in texts)


def writes(stack: Stack, fresh: str) -> dict[str, int]:
    """The status of one attempt at each kind of change."""
    data = fresh.encode()
    manifest = {"model": "echo", "scopes": ["call"], "name": fresh}
    return {
        "file": stack.request("PUT", f"/api/v1/files/{hashlib.sha256(data).hexdigest()}", data)[0],
        "key": stack.request("POST", "/api/v1/keys", {k: manifest[k] for k in ("name", "scopes")})[
            0
        ],
        "deployment": stack.request("PUT", "/api/v1/deployments/other", {"model": "echo"})[0],
    }


@pytest.fixture
def serving(tmp_path: Path, remote: Backend) -> Iterator[Stack]:
    """A stack that uses the servers and serves `echo`."""
    with running(tmp_path / "h", remote.environment) as stack:
        publish(stack, "echo")
        stack.client().deploy("echo", version=1)
        yield stack


def test_predictions_continue_without_database_and_store(
    serving: Stack, database: PostgresServer, artifacts: S3Server
) -> None:
    stack = serving
    database.crash()
    artifacts.crash()
    try:
        assert answer(stack, "echo") == [3.0, 4.0]
        down = writes(stack, "down")
        assert down == dict.fromkeys(down, 503)
        status, headers, body = stack.request("POST", "/api/v1/keys",
                                              {"name": "n", "scopes": ["call"]})  # fmt: skip
        assert status == 503
        assert int(headers["retry-after"]) >= 1
        assert database.password.encode() not in body
        # A new replica needs only the cached file and the plan.
        (victim,) = stack.pids("replica")
        stack.kill(victim)
        wait_until(lambda: stack.pids("replica") not in ([], [victim]), SLOW_S)
        wait_until(lambda: stack.request("POST", "/predict/echo", {"x": [3, 4]})[0] == 200, SLOW_S)
        # Predictions do not need control either.
        (control,) = stack.pids("control")
        stack.kill(control)
        for _ in range(50):
            assert answer(stack, "echo") == [3.0, 4.0]
        assert stack.request("GET", "/v2")[0] == 200
        assert stack.request("GET", "/v2", token="maas_0_0")[0] == 401
    finally:
        database.start()
        artifacts.start()
    wait_until(lambda: stack.request("GET", "/api/v1/status")[0] == 200, SLOW_S, "control is back")
    wait_until(lambda: set(writes(stack, "up").values()) <= {200, 201}, SLOW_S, "writes work")
    assert answer(stack, "echo") == [3.0, 4.0]
    publish(stack, "echo", 5.0)
    stack.client().deploy("echo")
    assert answer(stack, "echo") == [15.0, 20.0]
    wait_until(lambda: recorded_requests(stack, "echo") >= 53, SLOW_S, "all requests recorded")
