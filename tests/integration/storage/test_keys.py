"""API keys in the database."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from maas.domain.errors import InvalidInput, NotFound
from maas.domain.keys import Scope, generate_token, hash_token
from maas.storage import schema
from maas.storage.database import Database
from maas.storage.keys import Keys
from tests.integration.storage.conftest import Clock


def test_a_key_is_stored_without_its_token(db: Database, clock: Clock) -> None:
    key, token = Keys(db).create("ada", [Scope.CALL, Scope.READ])
    assert Keys(db).get(key.id) == key
    assert key.sha256 == hash_token(token)
    assert key.scopes == (Scope.CALL, Scope.READ)
    assert (key.created_at, key.revoked_at) == (clock.seconds, None)
    with db.read() as connection:
        stored = connection.execute(select(schema.keys)).all()
    assert token.split("_", 2)[2] not in repr(stored)


def test_keys_are_listed_oldest_first(db: Database, clock: Clock) -> None:
    first, _ = Keys(db).create("zoe", [Scope.CALL])
    clock.seconds += 1
    second, _ = Keys(db).create("ada", [Scope.ADMIN])
    assert Keys(db).list() == [first, second]


def test_revoking_again_keeps_the_first_time(db: Database, clock: Clock) -> None:
    key, _ = Keys(db).create("ada", [Scope.CALL])
    other, _ = Keys(db).create("bob", [Scope.CALL])
    clock.seconds += 5
    assert Keys(db).revoke(key.id).revoked_at == clock.seconds
    clock.seconds += 5
    assert Keys(db).revoke(key.id).revoked_at == clock.seconds - 5
    assert Keys(db).get(key.id).revoked_at == clock.seconds - 5
    assert Keys(db).get(other.id).revoked_at is None


def test_an_unknown_key_is_not_found(db: Database) -> None:
    with pytest.raises(NotFound):
        Keys(db).get("' OR '1'='1")
    with pytest.raises(NotFound):
        Keys(db).revoke("absent")


def test_an_unknown_key_is_answered_with_the_nearest_one(db: Database) -> None:
    key, _ = Keys(db).create("mobile-app", [Scope.CALL])
    for typo in ("mobil-app", key.id[:-1]):
        with pytest.raises(NotFound) as caught:
            Keys(db).get(typo)
        assert caught.value.message == (
            f"there is no key '{typo}'; did you mean '{key.id}' (mobile-app)?"
        )


def test_a_token_is_imported_once(db: Database) -> None:
    key_id, token = generate_token()
    key = Keys(db).import_token("admin", [Scope.ADMIN], token)
    assert (key.id, key.sha256) == (key_id, hash_token(token))
    Keys(db).revoke(key.id)
    again = Keys(db).import_token("other", [Scope.CALL], token)
    assert again == Keys(db).get(key.id)
    assert again.name == "admin"
    assert again.revoked_at is not None, "importing does not bring a revoked key back"
    assert len(Keys(db).list()) == 1


def test_a_token_in_another_format_is_imported(db: Database) -> None:
    token = "x" * 40
    assert Keys(db).import_token("admin", [Scope.ADMIN], token).sha256 == hash_token(token)


def test_invalid_keys_are_refused(db: Database) -> None:
    with pytest.raises(InvalidInput, match="at least 32"):
        Keys(db).import_token("admin", [Scope.ADMIN], "secret")
    with pytest.raises(InvalidInput, match="scope"):
        Keys(db).create("ada", [])
    with pytest.raises(InvalidInput, match="name"):
        Keys(db).create("Ada; DROP TABLE keys", [Scope.CALL])
    assert Keys(db).list() == []
