"""Run by Alembic: migrates the connection that `maas.storage.migrate` hands over."""

from alembic import context

from maas.storage.schema import metadata

# The caller's transaction is around it all, on SQLite, too.
context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
