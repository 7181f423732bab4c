"""One door to SQLite and PostgreSQL: transactions, retries, and errors in the domain's words."""

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
"""Longest wait for a lock, a connection or a free place in the pool."""
ATTEMPTS = 5
"""Tries of a transaction that lost against another one."""
RACES = ("40001", "40P01", "23505", "SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY")
"""Serialization failure, deadlock, unique conflict: somebody else was first."""


class Database:
    """An open database of the present schema. Safe to share between threads."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._writer = engine.execution_options(maas_write=True)
        self.now = clock
        """Seconds since the epoch, UTC."""

    @classmethod
    def open(cls, url: str, *, clock: Callable[[], float] = time.time) -> Database:
        """Opens `sqlite:///path` or `postgresql://…`, and brings an older schema up to date.

        Raises InvalidInput for another URL, Conflict for a newer schema, Unavailable if nobody
        answers there.
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
        """Where it is, without the password."""
        return self._engine.url.render_as_string(hide_password=True)

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`"""
        return self._engine.dialect.name

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction that may write. SQLite locks at its start, so it never fails halfway."""
        with _in_our_words(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction that only reads; on SQLite no writer makes it wait."""
        with _in_our_words(), self._engine.begin() as connection:
            yield connection

    def retry(self, work: Callable[[Connection], T]) -> T:
        """`work` in one transaction, again from its start if a concurrent one was first."""
        attempt = 1
        while True:
            try:
                with _in_our_words(), self._writer.begin() as connection:
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
            found = connection.execute(text("SELECT version_num FROM alembic_version"))
            return found.scalar_one_or_none()

    def _upgrade(self) -> None:
        # Alembic takes as long to import as a whole start may take to open the database.
        from maas.storage.migrate import upgrade  # noqa: PLC0415

        with self.begin() as connection:
            if self.dialect == "postgresql":
                # Two processes may start at once: the second waits and finds nothing to do.
                connection.execute(text("SET LOCAL lock_timeout = 0"))
                connection.execute(text("SET LOCAL statement_timeout = 0"))
                connection.execute(select(text("pg_advisory_xact_lock(7236271)")))
            upgrade(connection)


class LostRace(Unavailable):
    """Another transaction was first, again and again."""


def _parsed(url: str) -> URL:
    expected = "sqlite:///path or postgresql://user@host/name"
    try:
        parsed = make_url(url)
    except ArgumentError:
        # The text may hold a password: it is not repeated.
        raise InvalidInput(
            f"database_url must be {expected}; got no URL", field="database_url"
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
        # A server that vanished without a word is noticed in seconds, not in hours.
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
    """The file, and folders that are not there yet, for this user alone."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as wrong:
        raise StorageFailed(f"the database {path} cannot be opened: {wrong.strerror}") from None


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver's own transactions start late and never lock at the start; ours say BEGIN.
    connection.isolation_level = None
    mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise StorageFailed(f"SQLite cannot use a write-ahead log here (it uses {mode!r})")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute(f"PRAGMA busy_timeout={int(WAIT_S * 1000)}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("maas_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _in_our_words() -> Iterator[None]:
    """Errors of the driver as errors of the domain."""
    try:
        yield
    except exc.DBAPIError as wrong:
        raise _translated(wrong) from wrong
    except exc.TimeoutError:
        raise Unavailable("all connections to the database are in use", retry_after=1) from None
    except (UnicodeEncodeError, OverflowError) as wrong:
        # A lone surrogate in a text, an integer beyond 64 bits: no stored row has such a value.
        raise InvalidInput(f"a value cannot be stored: {shown(str(wrong))}") from None


def _translated(wrong: exc.DBAPIError) -> MaasError:
    """What a driver's error means. The statement and its values stay out of the message."""
    cause: Any = wrong.orig
    # psycopg has SQLSTATEs, sqlite3 has the names of SQLite's own result codes.
    code = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None) or ""
    said = shown(str(cause).strip().split("\n")[0], 200)
    if code in ("SQLITE_FULL", "53100"):
        return OutOfSpace("the database has no space left")
    if code in RACES:
        return LostRace("the database has a conflicting change", retry_after=1)
    if isinstance(wrong, exc.IntegrityError):
        return Conflict(f"the database refuses this: {said}")
    if isinstance(wrong, exc.DataError):
        return InvalidInput(f"a value cannot be stored: {said}")
    if code in ("SQLITE_CORRUPT", "SQLITE_NOTADB"):
        return StorageFailed(f"the database file is damaged: {said}")
    if isinstance(wrong, exc.OperationalError | exc.InterfaceError | exc.InternalError):
        return Unavailable(f"the database cannot do this now: {said}", retry_after=1)
    return MaasError(f"the database does not understand this: {said}")
