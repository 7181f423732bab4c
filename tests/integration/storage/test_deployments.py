"""Deployments in the database: revisions, history and the default."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, select

from maas.domain.deployments import Deployment, Scaling, Target
from maas.domain.errors import Conflict, NotFound
from maas.storage import schema
from maas.storage.database import Database
from maas.storage.deployments import Deployments, RevisionConflict
from tests.integration.storage.examples import deployment


def test_a_deployment_survives_a_round_trip(db: Database) -> None:
    put = Deployments(db).put(deployment())
    assert put == replace(deployment(), default=True, revision=1)
    assert Deployments(db).get("digits") == put
    assert Deployments(db).list() == [put]


def test_each_put_is_a_new_revision_whatever_its_own_number(db: Database) -> None:
    deployments = Deployments(db)
    deployments.put(deployment())
    assert deployments.put(replace(deployment(version=2), revision=77)).revision == 2
    assert deployments.get("digits").targets[0].version == 2
    assert [d.revision for d in deployments.history("digits")] == [1, 2]
    assert [d.targets[0].version for d in deployments.history("digits")] == [1, 2]


def test_only_another_default_replaces_the_default(db: Database) -> None:
    deployments = Deployments(db)
    assert deployments.put(deployment("a")).default
    assert not deployments.put(deployment("b")).default
    assert deployments.put(deployment("a", version=2)).default, "a put without the flag keeps it"
    assert deployments.put(deployment("b", default=True)).default
    assert {d.name: d.default for d in deployments.list()} == {"a": False, "b": True}


def test_deleting_the_default_leaves_none(db: Database) -> None:
    deployments = Deployments(db)
    deployments.put(deployment("a"))
    deployments.put(deployment("b"))
    deployments.delete("a")
    assert not deployments.put(deployment("b", version=2)).default
    assert deployments.put(deployment("b", default=True)).default


def test_rollback_restores_model_targets_and_scaling(db: Database) -> None:
    deployments = Deployments(db)
    first = deployments.put(deployment(version=1))
    other = Deployment("digits", "other", (Target(9, "onnx"),), Scaling(replicas=3))
    second = deployments.put(other)
    assert deployments.rollback("digits") == replace(first, revision=3)
    assert deployments.get("digits") == replace(first, revision=3)
    assert deployments.rollback("digits") == replace(second, revision=4), "undoes the first"
    assert [d.revision for d in deployments.history("digits")] == [1, 2, 3, 4]


def test_a_change_based_on_another_revision_is_refused(db: Database) -> None:
    store = Deployments(db)
    first = store.put(deployment(), after=0)
    with pytest.raises(RevisionConflict):
        store.put(deployment(), after=0)
    second = store.put(replace(first, scaling=Scaling(replicas=2)), after=first.revision)
    with pytest.raises(RevisionConflict, match="digits was changed meanwhile"):
        store.put(first, after=first.revision)
    assert store.get("digits") == second


def test_rollback_does_not_move_the_default(db: Database) -> None:
    deployments = Deployments(db)
    deployments.put(deployment("a"))
    deployments.put(deployment("a", version=2))
    deployments.put(deployment("b", default=True))
    assert not deployments.rollback("a").default
    assert deployments.get("b").default


def test_the_first_revision_cannot_be_rolled_back(db: Database) -> None:
    deployments = Deployments(db)
    deployments.put(deployment())
    with pytest.raises(Conflict, match="no earlier revision"):
        deployments.rollback("digits")
    assert deployments.get("digits").revision == 1


def test_a_deleted_name_starts_over_and_keeps_its_history(db: Database) -> None:
    deployments = Deployments(db)
    deployments.put(deployment(version=1))
    deployments.put(deployment(version=2))
    deployments.delete("digits")
    assert deployments.list() == []
    again = deployments.put(deployment(version=3))
    assert again.revision == 4, "the delete was a change, too"
    with pytest.raises(Conflict):
        deployments.rollback("digits")
    assert [d.targets[0].version for d in deployments.history("digits")] == [1, 2, 3]


@pytest.mark.parametrize(
    "method", [Deployments.get, Deployments.delete, Deployments.history, Deployments.rollback]
)
def test_an_unknown_name_is_not_found(
    db: Database, method: Callable[[Deployments, str], object]
) -> None:
    with pytest.raises(NotFound, match="absent"):
        method(Deployments(db), "absent")
    Deployments(db).put(deployment())
    with pytest.raises(NotFound, match=r"^there is no deployment 'digts'; did you mean 'digits'\?"):
        method(Deployments(db), "digts")


def test_the_history_records_actors_and_actions(db: Database) -> None:
    deployments = Deployments(db)
    deployments.put(deployment(), actor="ada")
    deployments.put(deployment(version=2), actor="bob")
    deployments.rollback("digits", actor="eve")
    deployments.delete("digits", actor="zoe")
    table = schema.deployment_history
    with db.read() as connection:
        rows = connection.execute(
            select(table.c.action, table.c.actor).order_by(table.c.revision)
        ).all()
    assert [tuple(row) for row in rows] == [
        ("put", "ada"),
        ("put", "bob"),
        ("rollback", "eve"),
        ("delete", "zoe"),
    ]


def test_concurrent_puts_leave_one_default_and_all_revisions(db: Database) -> None:
    deployments = Deployments(db)

    def put(i: int) -> Deployment:
        return deployments.put(deployment(f"name-{i % 3}", version=i + 1, default=True))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(put, range(18)))
    assert sum(d.default for d in deployments.list()) == 1
    for name in ("name-0", "name-1", "name-2"):
        assert [d.revision for d in deployments.history(name)] == [1, 2, 3, 4, 5, 6]


def test_an_uncommitted_default_is_not_overlooked(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`slow` sets the flag and has not committed when `quick` sets it, too."""
    deployments = Deployments(db)
    deployments.put(deployment("first"))
    written, go_on = threading.Event(), threading.Event()
    add_history = Deployments._add_history

    def slowly(self: Deployments, connection: Connection, *rest: Any) -> None:
        add_history(self, connection, *rest)
        if rest[0].name == "slow":
            written.set()
            go_on.wait(10)

    monkeypatch.setattr(Deployments, "_add_history", slowly)
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(deployments.put, deployment("slow", default=True))
        assert written.wait(10)
        quick = pool.submit(deployments.put, deployment("quick", default=True))
        wait([quick], timeout=0.3)
        go_on.set()
        assert slow.result().default
        assert quick.result().default
    assert [d.name for d in deployments.list() if d.default] == ["quick"]
