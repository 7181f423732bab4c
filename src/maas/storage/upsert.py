"""INSERT … ON CONFLICT, which SQLite and PostgreSQL both have and SQLAlchemy keeps apart."""

from __future__ import annotations

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite

from maas.storage.database import Database


def upsert(db: Database, table: Table) -> sqlite.Insert:
    """An insert into `table` that takes `on_conflict_do_update` and `on_conflict_do_nothing`."""
    if db.dialect == "postgresql":
        # The two classes have the same methods and no common base that says so.
        return postgresql.insert(table)  # type: ignore[return-value]
    return sqlite.insert(table)
