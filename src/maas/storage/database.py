"""Access to SQLite and PostgreSQL: transactions, retries, and translation of errors."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, exc, inspect, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from maas.domain.errors import (
    Conflict,
    InvalidInput,
    MaasError,
    OutOfSpace,
    StorageFailed,
    Unavailable,
)
from maas.domain.names import shown
from maas.storage import schema

T = TypeVar("T")

WAIT_S = 5
"""Timeout for a lock, a connection or a free connection of the pool."""
ATTEMPTS = 5
"""Attempts of a transaction that conflicts with concurrent ones."""
RACES = ("40001", "40P01", "23505", "SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY")
"""Codes for a conflict with a concurrent transaction: serialization failure, deadlock, unique
constraint."""


class Database:
    """An open database with the current schema. Thread-safe."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._writer = engine.execution_options(maas_write=True)
        self.now = clock
        """Seconds since the epoch, UTC."""

    @classmethod
    def open(cls, url: str, *, clock: Callable[[], float] = time.time) -> Database:
        """Opens `sqlite:///path` or `postgresql://…` and upgrades an older schema.

        Raises InvalidInput for any other URL, Conflict for a newer schema, Unavailable if the
        server does not answer.
        """
        database = cls(_engine(_parsed(url)), clock)
        try:
            if database._revision() != schema.REVISION:
                database._upgrade()
        except MaasError:
            database.close()
            raise
        return database

    @property
    def url(self) -> str:
        """URL of the database, without the password."""
        return self._engine.url.render_as_string(hide_password=True)

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`"""
        return self._engine.dialect.name

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction that may write.

        On SQLite it takes the write lock at its start, so it cannot fail halfway for lack of it.
        """
        with _database_errors(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A read-only transaction. On SQLite it does not wait for writers."""
        with _database_errors(), self._engine.begin() as connection:
            yield connection

    def retry(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` in one transaction, and again if a concurrent one conflicts with it."""
        attempt = 1
        while True:
            try:
                with _database_errors(), self._writer.begin() as connection:
                    return work(connection)
            except LostRace:
                if attempt == ATTEMPTS:
                    raise
                time.sleep(random.uniform(0, 0.01 * 2**attempt))
                attempt += 1

    def close(self) -> None:
        self._engine.dispose()

    def _revision(self) -> str | None:
        with self.read() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            rows = connection.execute(text("SELECT version_num FROM alembic_version"))
            return rows.scalar_one_or_none()

    def _upgrade(self) -> None:
        # Alembic takes as long to import as a whole start may take to open the database.
        from maas.storage.migrate import upgrade  # noqa: PLC0415

        with self.begin() as connection:
            if self.dialect == "postgresql":
                # Two processes may start at once: the second one waits for the first.
                connection.execute(text("SET LOCAL lock_timeout = 0"))
                connection.execute(text("SET LOCAL statement_timeout = 0"))
                connection.execute(select(text("pg_advisory_xact_lock(7236271)")))
            upgrade(connection)


class LostRace(Unavailable):
    """A concurrent transaction made a conflicting change."""


def _parsed(url: str) -> URL:
    expected = "sqlite:///path or postgresql://user@host/name"
    try:
        parsed = make_url(url)
    except ArgumentError:
        # The text may contain a password, so the message does not repeat it.
        raise InvalidInput(
            f"database_url must be {expected}; got text that is not a URL", field="database_url"
        ) from None
    if parsed.drivername in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed
    raise InvalidInput(
        f"database_url must be {expected}; got {shown(parsed.render_as_string())}",
        field="database_url",
    )


def _engine(url: URL) -> Engine:
    if url.drivername == "sqlite":
        _make_private(Path(str(url.database)))
        engine = create_engine(url, pool_timeout=WAIT_S, connect_args={"timeout": WAIT_S})
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    options = {
        "connect_timeout": WAIT_S,
        # Detects a server that vanished in seconds, not hours.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "tcp_user_timeout": 10_000,
        "options": f"-c lock_timeout={int(WAIT_S * 1000)}ms -c statement_timeout=30s",
    }
    try:
        return create_engine(
            url,
            pool_pre_ping=True,
            pool_timeout=WAIT_S,
            isolation_level="READ COMMITTED",
            connect_args={k: v for k, v in options.items() if k not in url.query},
        )
    except ModuleNotFoundError:
        raise InvalidInput(
            "database_url names PostgreSQL, which needs: pip install 'openmaas[postgres]'",
            field="database_url",
        ) from None


def _make_private(path: Path) -> None:
    """Creates the file and its missing folders with permissions for this user only."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StorageFailed(f"the database {path} cannot be opened: {error.strerror}") from None


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver's own transactions start late and take no lock then; `_begin_sqlite` does both.
    connection.isolation_level = None
    mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise StorageFailed(f"SQLite cannot use a write-ahead log; its journal mode is {mode!r}")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute(f"PRAGMA busy_timeout={int(WAIT_S * 1000)}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("maas_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _database_errors() -> Iterator[None]:
    """Translates errors of SQLAlchemy and the driver into errors of the domain."""
    try:
        yield
    except exc.DBAPIError as error:
        raise _translated(error) from error
    except exc.TimeoutError:
        raise Unavailable("all connections to the database are in use", retry_after=1) from None
    except (UnicodeEncodeError, OverflowError) as error:
        # A lone surrogate in a string or an integer beyond 64 bits.
        raise InvalidInput(f"a value cannot be stored: {shown(str(error))}") from None


def _translated(error: exc.DBAPIError) -> MaasError:
    """The domain's error for a driver's error, without the statement and its values."""
    cause: Any = error.orig
    # psycopg has SQLSTATEs, sqlite3 has the names of SQLite's own result codes.
    code = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None) or ""
    message = shown(str(cause).strip().split("\n")[0], 200)
    if code in ("SQLITE_FULL", "53100"):
        return OutOfSpace("the database has no space left")
    if code in RACES:
        return LostRace("the database has a conflicting change", retry_after=1)
    if isinstance(error, exc.IntegrityError):
        return Conflict(f"the change violates a constraint of the database: {message}")
    if isinstance(error, exc.DataError):
        return InvalidInput(f"a value cannot be stored: {message}")
    if code in ("SQLITE_CORRUPT", "SQLITE_NOTADB"):
        return StorageFailed(f"the database file is damaged: {message}")
    if isinstance(error, exc.OperationalError | exc.InterfaceError | exc.InternalError):
        return Unavailable(f"the database is unavailable: {message}", retry_after=1)
    return MaasError(f"the database rejects the statement: {message}")
