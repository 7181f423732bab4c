"""Fixtures that run each test on both databases and on both artifact stores."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from maas.storage import schema
from maas.storage.artifacts import ArtifactStore, LocalArtifacts, ObjectArtifacts, S3Options
from maas.storage.database import Database
from tests.support.servers.backends import PostgresServer, S3Server


class Clock:
    """A clock that tests set, in seconds since the epoch."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000.25

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty, migrated database; copying it is faster than migrating one per test."""
    path = tmp_path_factory.mktemp("template") / "maas.db"
    Database.open(f"sqlite:///{path}").close()
    return path


@pytest.fixture(scope="session")
def postgres_migrated(postgres_server: PostgresServer) -> str:
    """URL of a migrated database that tests empty after use."""
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE migrated")
    url = postgres_server.url("migrated")
    Database.open(url).close()
    return url


@contextmanager
def fresh_postgres(server: PostgresServer) -> Iterator[str]:
    """URL of a database that exists for one test."""
    name = f"t_{secrets.token_hex(6)}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield server.url(name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database without a schema."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'maas.db'}"
        return
    with fresh_postgres(request.getfixturevalue("postgres_server")) as database_url:
        yield database_url


@pytest.fixture(params=["sqlite", "postgresql"])
def db(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Database]:
    """An open and empty database whose time is `clock`."""
    if request.param == "sqlite":
        path = tmp_path / "maas.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        url = f"sqlite:///{path}"
    else:
        url = request.getfixturevalue("postgres_migrated")
    database = Database.open(url, clock=clock)
    yield database
    if database.dialect == "postgresql":
        tables = ", ".join(table.name for table in schema.metadata.sorted_tables)
        with database.begin() as connection:
            connection.exec_driver_sql(f"TRUNCATE {tables} RESTART IDENTITY")
    database.close()


def options_of(server: S3Server) -> S3Options:
    return S3Options(
        endpoint=server.endpoint,
        access_key_id=server.access_key_id,
        secret_access_key=server.secret_access_key,
    )


@pytest.fixture
def s3_store(s3_server: S3Server) -> ObjectArtifacts:
    """An empty store: a prefix of its own in the shared bucket."""
    prefix = f"test/{secrets.token_hex(6)}"
    return ObjectArtifacts(s3_server.bucket, prefix, options_of(s3_server))


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    """An empty artifact store."""
    if request.param == "local":
        return LocalArtifacts(tmp_path / "artifacts")
    s3_store: ObjectArtifacts = request.getfixturevalue("s3_store")
    return s3_store
