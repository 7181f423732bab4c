"""Publish, deploy, update and adopt on PostgreSQL and S3 instead of SQLite and a directory."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from maas.settings import StorageSettings
from tests.integration.control.home import Home, kill, pids, sha256, tiny_onnx
from tests.support.servers.backends import PostgresServer, S3Server
from tests.support.servers.maas import wait_until


@pytest.fixture
def storage(postgres_server: PostgresServer, s3_server: S3Server) -> StorageSettings:
    name = f"control_{secrets.token_hex(4)}"
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return StorageSettings(
        database_url=postgres_server.url(name),
        artifacts_url=f"s3://{s3_server.bucket}/{name}",
        s3_endpoint=s3_server.endpoint,
        s3_access_key_id=s3_server.access_key_id,
        s3_secret_access_key=s3_server.secret_access_key,
    )


@pytest.fixture
def control(storage: StorageSettings) -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="maas-") as folder:
        home = Home(Path(folder), storage)
        try:
            home.start()
            yield home
        finally:
            home.close()


def test_publish_deploy_update_and_adopt(control: Home) -> None:
    control.publish("m", tiny_onnx(3))
    control.deploy("t", model="m")
    (first,) = pids(control.wait_for("t", "ready"))
    assert control.predict("t", [1, 2, 3]) == [3, 6, 9]
    second = tiny_onnx(5)
    control.publish("m", second)
    control.deploy("t", model="m")
    (second_pid,) = pids(control.wait_for("t", "ready"))
    assert second_pid != first and control.predict("t", [1, 2, 3]) == [5, 10, 15]
    assert control.http.get(f"/api/v1/files/{sha256(second)}").content == second

    control.kill()
    assert control.predict("t", [1, 1, 1]) == [5, 5, 5]
    control.start()
    assert pids(control.wait_for("t", "ready")) == {second_pid}
    kill(second_pid)
    # Control may answer before it notices the crash.
    wait_until(lambda: second_pid not in pids(control.wait_for("t", "ready")))
    status = control.http.get("/api/v1/status").json()
    assert status["database"].startswith("postgresql") and "s3://" in status["artifacts_url"]
    assert control.stop() == 0
