"""Migration of a database to this program's schema. Imported only if a database needs it."""

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

    Raises Conflict if the database has an unknown revision.
    """
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    present = MigrationContext.configure(connection).get_current_revision()
    scripts = ScriptDirectory.from_config(config).walk_revisions()
    if present is not None and present not in {script.revision for script in scripts}:
        raise Conflict(
            f"the database has schema revision {present}, but this version of OpenMaaS supports "
            f"revisions up to {REVISION}; upgrade OpenMaaS, or use another database",
            found=present,
            known=REVISION,
        )
    command.upgrade(config, "head")
