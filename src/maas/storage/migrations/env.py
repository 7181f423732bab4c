"""Alembic environment: migrates the connection from `maas.storage.migrate`."""

from alembic import context

from maas.storage.schema import metadata

# Everything runs in the caller's transaction, on SQLite, too.
context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
