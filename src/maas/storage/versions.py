"""Models, their numbered versions, and the evidence of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, and_, func, insert, select, update

from maas.domain.errors import Conflict, NotFound
from maas.domain.models import Evidence, File, Manifest, Variant, Version
from maas.domain.names import did_you_mean, shown
from maas.storage.database import Database
from maas.storage.schema import evidence as evidence_table
from maas.storage.schema import file_uses, models, to_json, variants, versions
from maas.storage.upsert import upsert


class Versions:
    """Tables of models, versions, variants and evidence."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def publish(self, manifest: Manifest, created_by: str = "") -> tuple[Version, bool]:
        """The version with this manifest, and whether it is new. Durable on return.

        A manifest that is already published keeps its number, so publishing again is safe.
        """
        document = to_json(manifest.to_dict(), "manifest")
        digest = manifest.digest

        def work(connection: Connection) -> tuple[Version, bool]:
            # This locks the model's row to the end of the transaction, so numbers are unique.
            now = self._db.now()
            connection.execute(
                upsert(self._db, models).on_conflict_do_update(
                    index_elements=["name"], set_={"name": manifest.model}
                ),
                {"name": manifest.model, "created_at": now, "updated_at": now},
            )
            of_model = versions.c.model == manifest.model
            same = connection.execute(
                select(versions).where(of_model, versions.c.digest == digest)
            ).one_or_none()
            if same is not None:
                return _version(same, self._added(connection, same.model, same.number)), False
            newest = connection.scalar(select(func.max(versions.c.number)).where(of_model)) or 0
            version = Version(manifest.model, newest + 1, manifest, now, created_by)
            connection.execute(
                insert(versions),
                {
                    "model": version.model,
                    "number": version.number,
                    "digest": digest,
                    "task": str(manifest.task),
                    "manifest": document,
                    "created_at": now,
                    "created_by": created_by,
                },
            )
            connection.execute(
                update(models).where(models.c.name == manifest.model).values(updated_at=now)
            )
            self._note_files(connection, version, manifest.files())
            return version, True

        return self._db.retry(work)

    def get(self, model: str, number: int | None = None) -> Version:
        """The version with this number, or the newest one. Raises NotFound."""
        query = select(versions).where(versions.c.model == model)
        if number is not None:
            query = query.where(versions.c.number == number)
        with self._db.read() as connection:
            row = connection.execute(
                query.order_by(versions.c.number.desc()).limit(1)
            ).one_or_none()
            added = self._added(connection, model, row.number) if row is not None else {}
        if row is None:
            raise self._not_found(model, number)
        return _version(row, added)

    def add_variant(
        self, model: str, number: int, variant: Variant, created_by: str = ""
    ) -> tuple[Version, bool]:
        """The version with this variant, and whether it is new. Durable on return.

        Adding the same variant again has no effect. Raises NotFound for an unknown version,
        Conflict if another variant has this name.
        """

        def work(connection: Connection) -> bool:
            self._lock(connection, model)
            version = self.get(model, number)
            same = next((v for v in version.variants if v.name == variant.name), None)
            if same is not None:
                if same == variant:
                    return False
                raise Conflict(
                    f"{model}:{number} has another variant {variant.name}; variants never change, "
                    "so choose another name",
                    field="name",
                )
            row = {
                "model": model,
                "number": number,
                "name": variant.name,
                "document": to_json(variant.to_dict(), "variant"),
                "created_at": self._db.now(),
                "created_by": created_by,
            }
            connection.execute(insert(variants), row)
            self._note_files(connection, version, variant.files)
            return True

        is_new = self._db.retry(work)
        return self.get(model, number), is_new

    def models(self) -> list[dict[str, Any]]:
        """One dict per model, ordered by name: name, task (of the newest version), versions (their
        number), latest (its number), created_at, updated_at."""
        totals = (
            select(
                versions.c.model,
                func.count().label("versions"),
                func.max(versions.c.number).label("latest"),
            )
            .group_by(versions.c.model)
            .subquery()
        )
        newest = and_(versions.c.model == models.c.name, versions.c.number == totals.c.latest)
        query = (
            select(
                models.c.name,
                versions.c.task,
                totals.c.versions,
                totals.c.latest,
                models.c.created_at,
                models.c.updated_at,
            )
            .join(totals, totals.c.model == models.c.name)
            .join(versions, newest)
            .order_by(models.c.name)
        )
        with self._db.read() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def add_evidence(self, model: str, number: int, evidence: Evidence) -> None:
        """Raises NotFound for an unknown version, InvalidInput for an unknown variant.

        Equal evidence is stored once, so a retry is safe. Its time is that of the latest one, since
        a repeated measurement may give the same values.
        """
        version = self.get(model, number)
        version.variant(evidence.variant)
        document = evidence.to_dict() | {"created_at": 0.0}
        text = to_json(document, "evidence")
        canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
        row = {
            "model": model,
            "number": number,
            "digest": hashlib.sha256(canonical.encode()).hexdigest(),
            "document": text,
            "created_at": evidence.created_at or self._db.now(),
        }
        put, key = upsert(self._db, evidence_table), ["model", "number", "digest"]
        if evidence.created_at:
            is_later = put.excluded.created_at > evidence_table.c.created_at
            put = put.on_conflict_do_update(
                index_elements=key, set_={"created_at": put.excluded.created_at}, where=is_later
            )
        else:
            put = put.on_conflict_do_nothing(index_elements=key)
        with self._db.begin() as connection:
            connection.execute(put, row)
            if evidence.file is not None:
                self._note_files(connection, version, [evidence.file])

    def evidence(self, model: str, number: int) -> list[Evidence]:
        """All evidence of a version, oldest first. Raises NotFound for an unknown version."""
        self.get(model, number)
        query = (
            select(evidence_table.c.document, evidence_table.c.created_at)
            .where(evidence_table.c.model == model, evidence_table.c.number == number)
            .order_by(evidence_table.c.created_at, evidence_table.c.id)
        )
        with self._db.read() as connection:
            rows = connection.execute(query).all()
        return [
            replace(Evidence.from_dict(json.loads(row.document)), created_at=row.created_at)
            for row in rows
        ]

    def uses_file(self, sha256: str) -> bool:
        """Whether the manifest, a variant or evidence of any version names this file."""
        query = select(file_uses.c.sha256).where(file_uses.c.sha256 == sha256).limit(1)
        with self._db.read() as connection:
            return connection.execute(query).first() is not None

    def list(self, model: str) -> list[Version]:
        """All versions of a model, oldest first. Raises NotFound for an unknown model."""
        query = select(versions).where(versions.c.model == model).order_by(versions.c.number)
        with self._db.read() as connection:
            added = self._added(connection, model)
            rows = connection.execute(query).all()
        if not rows:
            raise self._not_found(model)
        return [_version(row, added) for row in rows]

    def _not_found(self, model: str, number: int | None = None) -> NotFound:
        """The error for an unknown model, or for a version that a known model does not have."""
        with self._db.read() as connection:
            names = connection.scalars(select(models.c.name).order_by(models.c.name)).all()
            newest = connection.scalar(
                select(func.max(versions.c.number)).where(versions.c.model == model)
            )
        if number is None or newest is None:
            return NotFound(f"there is no model {shown(model)}{did_you_mean(model, names)}")
        return NotFound(f"model {shown(model)} has no version {number}; the newest is {newest}")

    def _lock(self, connection: Connection, model: str) -> None:
        """Locks the model's row to the end of the transaction."""
        now = self._db.now()
        connection.execute(update(models).where(models.c.name == model).values(updated_at=now))

    def _added(
        self, connection: Connection, model: str, number: int | None = None
    ) -> dict[int, tuple[Variant, ...]]:
        """Variants that were added after publication, by version number, oldest first."""
        query = select(variants.c.number, variants.c.document).where(variants.c.model == model)
        if number is not None:
            query = query.where(variants.c.number == number)
        added: dict[int, tuple[Variant, ...]] = {}
        for row in connection.execute(query.order_by(variants.c.created_at, variants.c.name)):
            variant = Variant.from_dict(json.loads(row.document))
            added[row.number] = (*added.get(row.number, ()), variant)
        return added

    def _note_files(self, connection: Connection, version: Version, files: Iterable[File]) -> None:
        digests = sorted({file.sha256 for file in files})
        rows = [
            {"sha256": digest, "model": version.model, "number": version.number}
            for digest in digests
        ]
        if not rows:
            return
        connection.execute(
            upsert(self._db, file_uses).on_conflict_do_nothing(
                index_elements=["sha256", "model", "number"]
            ),
            rows,
        )


def _version(row: Row[Any], added: dict[int, tuple[Variant, ...]] | None = None) -> Version:
    return Version(
        model=row.model,
        number=row.number,
        manifest=Manifest.from_dict(json.loads(row.manifest)),
        created_at=row.created_at,
        created_by=row.created_by,
        added=(added or {}).get(row.number, ()),
    )
