"""The tables, and the revision that the migrations lead to.

Documents (manifests, targets, results) are JSON in TEXT columns, written by `to_json`: the same
bytes on SQLite and PostgreSQL, without NaN and without characters that PostgreSQL refuses in text.
Times are seconds since the epoch, UTC, as double precision.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from maas.domain.errors import InvalidInput

REVISION = "0002"
"""The newest revision in migrations/versions; a test compares tables and migrations."""

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

models = Table(
    "models",
    metadata,
    Column("name", Text, primary_key=True),
    Column("created_at", Float(53), nullable=False),
    Column("updated_at", Float(53), nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("model", Text, ForeignKey(models.c.name), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("digest", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("manifest", Text, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("created_by", Text, nullable=False),
    UniqueConstraint("model", "digest"),
)

evidence = Table(
    "evidence",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("model", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("digest", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("created_at", Float(53), nullable=False),
    ForeignKeyConstraint(["model", "number"], [versions.c.model, versions.c.number]),
    UniqueConstraint("model", "number", "digest"),
)

variants = Table(
    "variants",
    metadata,
    Column("model", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, primary_key=True),
    Column("document", Text, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("created_by", Text, nullable=False),
    ForeignKeyConstraint(["model", "number"], [versions.c.model, versions.c.number]),
)
"""Variants added to a version after its publication; the others are in its manifest."""

file_uses = Table(
    "file_uses",
    metadata,
    Column("sha256", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    ForeignKeyConstraint(["model", "number"], [versions.c.model, versions.c.number]),
)

deployments = Table(
    "deployments",
    metadata,
    Column("name", Text, primary_key=True),
    Column("model", Text, nullable=False),
    Column("targets", Text, nullable=False),
    Column("scaling", Text, nullable=False),
    Column("is_default", Boolean, nullable=False),
    Column("gate", Text, nullable=False, server_default=text("''")),
    Column("revision", Integer, nullable=False),
    Column("updated_at", Float(53), nullable=False),
)

deployment_history = Table(
    "deployment_history",
    metadata,
    Column("name", Text, primary_key=True),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("action", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("targets", Text, nullable=False),
    Column("scaling", Text, nullable=False),
    Column("is_default", Boolean, nullable=False),
    Column("gate", Text, nullable=False, server_default=text("''")),
    Column("actor", Text, nullable=False),
    Column("created_at", Float(53), nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("revoked_at", Float(53)),
    UniqueConstraint("sha256"),
)

usage = Table(
    "usage",
    metadata,
    Column("source", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("deployment", Text, primary_key=True),
    Column("operation", Text, primary_key=True),
    Column("day", Text, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("compute_us", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False, server_default="0"),
    Column("completion_tokens", BigInteger, nullable=False, server_default="0"),
    Index(None, "day"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("progress", Text, nullable=False),
    Column("spec", Text, nullable=False),
    Column("result", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("updated_at", Float(53), nullable=False),
    Index(None, "state"),
    Index(None, "created_at"),
)


def to_json(value: Any, what: str) -> str:
    """JSON for a TEXT column. Raises InvalidInput, which names `what`, for NaN and values that
    JSON does not have."""
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{what} must be JSON values: {error}", field=what) from None
