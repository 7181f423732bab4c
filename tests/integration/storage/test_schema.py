"""The migrations lead to the tables of schema.py."""

from __future__ import annotations

from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from maas.storage import migrate, schema
from maas.storage.database import Database


def test_the_migrations_create_the_tables_of_the_schema(db: Database) -> None:
    with db.read() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, schema.metadata) == []


def test_the_migrations_create_the_same_primary_keys(db: Database) -> None:
    """Alembic does not compare primary keys."""
    with db.read() as connection:
        inspector = inspect(connection)
        for table in schema.metadata.sorted_tables:
            columns = inspector.get_pk_constraint(table.name)["constrained_columns"]
            assert columns == [column.name for column in table.primary_key.columns], table.name


def test_the_schema_names_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrate.FOLDER))
    assert ScriptDirectory.from_config(config).get_heads() == [schema.REVISION]
