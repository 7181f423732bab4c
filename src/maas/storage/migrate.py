"""Brings a database to this program's schema. Imported only when a database is behind."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from maas.domain.errors import Conflict
from maas.storage.schema import REVISION

FOLDER = Path(__file__).parent / "migrations"


def upgrade(connection: Connection) -> None:
    """Runs the missing migrations in the caller's transaction: all of them or none.

    Raises Conflict if the database has a revision that this program does not know.
    """
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    present = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if present is not None and present not in known:
        raise Conflict(
            f"the database has schema {present}, this program knows up to {REVISION}: "
            "it was used by a newer OpenMaaS; upgrade, or open another database",
            found=present,
            known=REVISION,
        )
    command.upgrade(config, "head")
