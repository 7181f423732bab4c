"""Deployments: the desired state of every name, and its history."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from maas.domain.deployments import Deployment, Scaling, Target
from maas.domain.errors import Conflict, NotFound
from maas.domain.names import did_you_mean, shown
from maas.storage.database import Database
from maas.storage.schema import deployment_history as history_table
from maas.storage.schema import deployments, to_json


class RevisionConflict(Conflict):
    """The deployment has a newer revision than the one that the change is based on."""


class Deployments:
    """Table of deployments and their history."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def get(self, name: str) -> Deployment:
        """Raises NotFound."""
        with self._db.read() as connection:
            return self._present(connection, name)

    def put(
        self, deployment: Deployment, actor: str = "", *, after: int | None = None
    ) -> Deployment:
        """Stores the deployment as the next revision of its name; its own `revision` is ignored.

        `after` is the revision that the change is based on, 0 for none. Raises RevisionConflict if
        that is no longer the present revision.

        `default=True` removes the flag from the other deployments. `default=False` does not remove
        it from this one: only a new default does. The first deployment becomes the default.
        """
        return self._db.retry(
            lambda connection: self._put(connection, deployment, actor, "put", after)
        )

    def delete(self, name: str, actor: str = "") -> None:
        """Raises NotFound. Deleting the default leaves none until another one is put as default."""

        def work(connection: Connection) -> None:
            present = self._present(connection, name)
            last = replace(present, revision=self._next_revision(connection, name), default=False)
            connection.execute(delete(deployments).where(deployments.c.name == name))
            self._add_history(connection, last, actor, "delete")

        self._db.retry(work)

    def history(self, name: str) -> list[Deployment]:
        """Every revision of this name, oldest first, including those before a delete.

        Raises NotFound for a name that never existed.
        """
        query = select(history_table).where(history_table.c.name == name)
        with self._db.read() as connection:
            rows = connection.execute(query.order_by(history_table.c.revision)).all()
            if not rows:
                raise self._not_found(connection, name)
        return [_deployment(row) for row in rows if row.action != "delete"]

    def rollback(self, name: str, actor: str = "") -> Deployment:
        """Restores model, targets and scaling of the previous revision as a new revision.

        A second rollback therefore undoes the first. Raises NotFound, or Conflict if the
        deployment has no earlier revision since it was created.
        """

        def work(connection: Connection) -> Deployment:
            present = self._present(connection, name)
            query = (
                select(history_table)
                .where(history_table.c.name == name, history_table.c.revision < present.revision)
                .order_by(history_table.c.revision.desc())
                .limit(1)
            )
            row = connection.execute(query).one_or_none()
            if row is None or row.action == "delete":
                raise Conflict(f"deployment {name} has no earlier revision to go back to")
            previous = replace(_deployment(row), default=present.default)
            return self._put(connection, previous, actor, "rollback")

        return self._db.retry(work)

    def list(self) -> list[Deployment]:
        """All deployments, by name."""
        with self._db.read() as connection:
            rows = connection.execute(select(deployments).order_by(deployments.c.name)).all()
        return [_deployment(row) for row in rows]

    def _put(
        self,
        connection: Connection,
        deployment: Deployment,
        actor: str,
        action: str,
        after: int | None = None,
    ) -> Deployment:
        self._lock(connection)
        query = select(deployments.c.revision).where(deployments.c.name == deployment.name)
        if after is not None and (connection.scalar(query) or 0) != after:
            raise RevisionConflict(f"deployment {deployment.name} was changed meanwhile")
        others = connection.execute(select(deployments.c.name, deployments.c.is_default)).all()
        was_default = any(row.is_default and row.name == deployment.name for row in others)
        stored = replace(
            deployment,
            revision=self._next_revision(connection, deployment.name),
            default=deployment.default or was_default or not others,
        )
        if stored.default:
            connection.execute(
                update(deployments).where(deployments.c.is_default).values(is_default=False)
            )
        connection.execute(delete(deployments).where(deployments.c.name == stored.name))
        connection.execute(insert(deployments), _row(stored) | {"updated_at": self._db.now()})
        self._add_history(connection, stored, actor, action)
        return stored

    def _lock(self, connection: Connection) -> None:
        """Serializes writers, so that there is never more than one default."""
        if self._db.dialect == "postgresql":
            connection.exec_driver_sql("LOCK TABLE deployments IN SHARE ROW EXCLUSIVE MODE")

    def _present(self, connection: Connection, name: str) -> Deployment:
        row = connection.execute(
            select(deployments).where(deployments.c.name == name)
        ).one_or_none()
        if row is None:
            raise self._not_found(connection, name)
        return _deployment(row)

    @staticmethod
    def _not_found(connection: Connection, name: str) -> NotFound:
        names = connection.scalars(select(deployments.c.name).order_by(deployments.c.name)).all()
        return NotFound(f"there is no deployment {shown(name)}{did_you_mean(name, names)}")

    def _next_revision(self, connection: Connection, name: str) -> int:
        query = select(func.max(history_table.c.revision)).where(history_table.c.name == name)
        return (connection.scalar(query) or 0) + 1

    def _add_history(
        self, connection: Connection, deployment: Deployment, actor: str, action: str
    ) -> None:
        connection.execute(
            insert(history_table),
            _row(deployment) | {"action": action, "actor": actor, "created_at": self._db.now()},
        )


def _row(deployment: Deployment) -> dict[str, Any]:
    return {
        "name": deployment.name,
        "model": deployment.model,
        "targets": to_json([asdict(target) for target in deployment.targets], "targets"),
        "scaling": to_json(asdict(deployment.scaling), "scaling"),
        "is_default": deployment.default,
        "gate": deployment.gate,
        "revision": deployment.revision,
    }


def _deployment(row: Row[Any]) -> Deployment:
    return Deployment(
        name=row.name,
        model=row.model,
        targets=tuple(Target(**target) for target in json.loads(row.targets)),
        scaling=Scaling(**json.loads(row.scaling)),
        default=row.is_default,
        gate=row.gate,
        revision=row.revision,
    )
