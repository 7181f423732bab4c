"""Run by Alembic: migrates the connection that `maas.storage.migrate` hands over."""

from alembic import context

from maas.storage.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
)
context.run_migrations()
