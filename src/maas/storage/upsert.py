"""INSERT … ON CONFLICT for SQLite and PostgreSQL, for which SQLAlchemy has separate functions."""

from __future__ import annotations

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite

from maas.storage.database import Database


def upsert(db: Database, table: Table) -> sqlite.Insert:
    """An insert into `table` with `on_conflict_do_update` and `on_conflict_do_nothing`."""
    if db.dialect == "postgresql":
        # The two classes have the same methods but no common base class that declares them.
        return postgresql.insert(table)  # type: ignore[return-value]
    return sqlite.insert(table)
