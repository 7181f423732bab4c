"""Opening, migrating and locking a database, and losing the connection to it."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import insert, inspect, select, text

from maas.domain.errors import (
    Conflict,
    InvalidInput,
    MaasError,
    OutOfSpace,
    StorageFailed,
    Unavailable,
)
from maas.domain.keys import Scope
from maas.storage import database, schema
from maas.storage.database import Database
from maas.storage.keys import Keys
from maas.storage.versions import Versions
from tests.integration.storage.conftest import fresh_postgres
from tests.integration.storage.examples import manifest
from tests.support.servers.backends import PostgresServer, free_ports

ROW = {"name": "digits", "created_at": 1.0, "updated_at": 1.0}


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    with fresh_postgres(postgres_server) as url:
        yield url


def test_an_empty_database_is_migrated_and_persists(url: str) -> None:
    first = Database.open(url)
    Versions(first).publish(manifest())
    first.close()
    again = Database.open(url)
    assert Versions(again).get("digits").manifest == manifest()
    again.close()


def test_an_up_to_date_database_opens_without_alembic(url: str) -> None:
    Database.open(url).close()
    program = (
        "import sys; from maas.storage.database import Database; Database.open(sys.argv[1]); "
        "print('alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("False\n", 0), done.stderr


def test_a_newer_schema_is_refused_and_unchanged(url: str) -> None:
    newer = Database.open(url)
    with newer.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Conflict, match=f"9999.*{schema.REVISION}"):
        Database.open(url)
    with newer.read() as connection:
        revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
    assert revision == "9999"
    newer.close()


def test_a_migration_that_fails_leaves_nothing(url: str) -> None:
    """The last table exists already, so all others are created before the failure."""
    bare = Database(database._engine(database._parsed(url)))
    with bare.begin() as connection:
        connection.execute(text("CREATE TABLE file_uses (x INTEGER)"))
    with pytest.raises(MaasError, match="file_uses"):
        Database.open(url)
    with bare.begin() as connection:
        assert inspect(connection).get_table_names() == ["file_uses"]
        connection.execute(text("DROP TABLE file_uses"))
    bare.close()
    Database.open(url).close()


def test_concurrent_starts_migrate_once(url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: Database.open(url), range(4)))
    for each in opened:
        Keys(each).create("ada", [Scope.CALL])
    assert len(Keys(opened[0]).list()) == 4
    for each in opened:
        each.close()


def test_a_failed_transaction_is_rolled_back(db: Database) -> None:
    with pytest.raises(ZeroDivisionError), db.begin() as connection:
        connection.execute(insert(schema.models), ROW)
        raise ZeroDivisionError
    assert_empty(db)


def assert_empty(db: Database) -> None:
    with db.read() as connection:
        assert connection.execute(select(schema.models)).all() == []


def test_a_lost_race_is_retried(db: Database) -> None:
    tries = []

    def work(connection: object) -> str:
        tries.append(connection)
        if len(tries) < 3:
            raise database.LostRace
        return "done"

    assert db.retry(work) == "done"
    assert len(tries) == 3


def test_a_race_that_is_always_lost_is_unavailable(db: Database) -> None:
    with db.begin() as connection:
        connection.execute(insert(schema.models), ROW)
    tries = []

    def work(connection: object) -> None:
        tries.append(connection)
        connection.execute(insert(schema.models), ROW)  # type: ignore[attr-defined]

    with pytest.raises(Unavailable):
        db.retry(work)
    assert len(tries) == database.ATTEMPTS


def test_a_broken_reference_is_a_conflict_and_not_a_race(db: Database) -> None:
    row = {"sha256": "a" * 64, "model": "absent", "number": 1}
    with pytest.raises(Conflict), db.begin() as connection:
        connection.execute(insert(schema.file_uses), row)


@pytest.mark.parametrize(
    "url", ["", "mysql://u:secret@h/d", "sqlite://", "sqlite:///:memory:", "not a url", "pg:secret"]
)
def test_other_urls_are_refused_without_their_password(url: str) -> None:
    with pytest.raises(InvalidInput, match="database_url must be sqlite") as refused:
        Database.open(url)
    assert "secret" not in refused.value.message


# SQLite


def test_sqlite_is_durable_private_and_checks_references(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "maas.db"
    db = Database.open(f"sqlite:///{path}")
    with db.begin() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 5000,
    }
    Keys(db).create("ada", [Scope.CALL])
    modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    db.close()


def test_sqlite_writers_wait_for_a_lock_and_readers_do_not(tmp_path: Path) -> None:
    path = tmp_path / "maas.db"
    db = Database.open(f"sqlite:///{path}")
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, other.rollback)
    release.start()
    assert Versions(db).models() == []
    assert release.is_alive(), "the reader waited"
    Versions(db).publish(manifest())
    release.join()
    assert len(Versions(db).models()) == 1
    other.close()
    db.close()


def test_sqlite_writers_time_out_on_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "WAIT_S", 0.2)
    path = tmp_path / "maas.db"
    db = Database.open(f"sqlite:///{path}")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked") as refused:
        Versions(db).publish(manifest())
    assert refused.value.retry_after == 1
    other.rollback()
    Versions(db).publish(manifest())
    other.close()
    db.close()


def test_sqlite_reports_a_full_disk(tmp_path: Path) -> None:
    db = Database.open(f"sqlite:///{tmp_path / 'maas.db'}")
    with pytest.raises(OutOfSpace), db.begin() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
        for i in range(100):
            connection.execute(insert(schema.models), ROW | {"name": f"{i}" * 4000})
    assert_empty(db)
    Versions(db).publish(manifest(), created_by="x" * 10)
    db.close()


def test_a_file_that_is_not_a_database_is_reported_as_damaged(tmp_path: Path) -> None:
    path = tmp_path / "maas.db"
    path.write_bytes(b"this is no database, it is a letter" * 100)
    with pytest.raises(StorageFailed, match="damaged"):
        Database.open(f"sqlite:///{path}")
    assert path.read_bytes().startswith(b"this is no database")


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match=str(tmp_path)):
        Database.open(f"sqlite:///{tmp_path}")


# PostgreSQL


def test_cut_postgres_connections_are_replaced(postgres_url: str) -> None:
    db = Database.open(postgres_url)
    with pytest.raises(Unavailable) as lost, db.begin() as connection:
        connection.execute(insert(schema.models), ROW)
        cut(postgres_url)
        connection.execute(select(schema.models))
    assert lost.value.retry_after == 1
    assert_empty(db)
    cut(postgres_url)
    Versions(db).publish(manifest())
    assert len(Versions(db).models()) == 1
    db.close()


def cut(url: str) -> None:
    """Terminates all other connections to the database, as a restart of the server does."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_postgres_writers_time_out_on_a_lock(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "WAIT_S", 1)
    db = Database.open(postgres_url)
    with psycopg.connect(postgres_url) as other:
        other.execute("LOCK TABLE models")
        with pytest.raises(Unavailable, match="lock") as refused:  # otherwise it waits forever
            Versions(db).publish(manifest())
    assert refused.value.retry_after == 1
    Versions(db).publish(manifest())
    db.close()


def test_a_postgres_server_that_is_down_or_refuses_is_unavailable(
    postgres_server: PostgresServer,
) -> None:
    nobody = f"postgresql://u:secret-1@127.0.0.1:{free_ports(1)[0]}/d"
    wrong = postgres_server.url().replace(postgres_server.password, "secret-2")
    for url in (nobody, wrong):
        with pytest.raises(Unavailable) as refused:
            Database.open(url)
        assert "secret" not in refused.value.message


def test_the_password_is_not_shown(postgres_url: str, postgres_server: PostgresServer) -> None:
    db = Database.open(postgres_url)
    assert postgres_server.password not in db.url
    assert f"maas:***@127.0.0.1:{postgres_server.port}" in db.url
    db.close()
