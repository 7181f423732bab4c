"""API keys, stored as hashes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, insert, select, update

from maas.domain.errors import InvalidInput, NotFound
from maas.domain.keys import PREFIX, Key, Scope, generate_token, hash_token
from maas.domain.names import checked_name, nearest, shown
from maas.storage.database import Database
from maas.storage.schema import keys
from maas.storage.upsert import upsert

SHORTEST_TOKEN = 32
"""Characters. A fast hash protects only a secret that cannot be guessed."""

_TOKEN = re.compile(rf"{PREFIX}([0-9a-z]{{4,32}})_.+")


class Keys:
    """Table of API keys."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def create(self, name: str, scopes: Sequence[Scope]) -> tuple[Key, str]:
        """A new key and its token, which is not stored and cannot be shown again."""
        key_id, token = generate_token()
        key = self._new(key_id, name, scopes, token)
        with self._db.begin() as connection:
            connection.execute(insert(keys), _row(key))
        return key, token

    def import_token(self, name: str, scopes: Sequence[Scope], token: str) -> Key:
        """The key of a token that was generated elsewhere.

        The key of a known token stays unchanged, even if it is revoked. Raises InvalidInput for a
        token that is too short.
        """
        if len(token) < SHORTEST_TOKEN:
            raise InvalidInput(
                f"a token must have at least {SHORTEST_TOKEN} characters; got {len(token)}",
                field="token",
            )
        match = _TOKEN.fullmatch(token)
        key = self._new(match[1] if match else hash_token(token)[:12], name, scopes, token)
        with self._db.begin() as connection:
            connection.execute(
                upsert(self._db, keys).on_conflict_do_nothing(index_elements=["sha256"]),
                _row(key),
            )
            row = connection.execute(select(keys).where(keys.c.sha256 == key.sha256)).one()
        return _key(row)

    def get(self, key_id: str) -> Key:
        """Raises NotFound with the nearest id or name, for callers that may list keys."""
        key = self.find(key_id)
        if key is None:
            raise NotFound(f"there is no key {shown(key_id)}{self._suggestion(key_id)}")
        return key

    def find(self, key_id: str) -> Key | None:
        """The key with this id, or None."""
        with self._db.read() as connection:
            row = connection.execute(select(keys).where(keys.c.id == key_id)).one_or_none()
        return None if row is None else _key(row)

    def revoke(self, key_id: str) -> Key:
        """Revokes a key permanently. Idempotent. Raises NotFound."""
        with self._db.begin() as connection:
            connection.execute(
                update(keys)
                .where(keys.c.id == key_id, keys.c.revoked_at.is_(None))
                .values(revoked_at=self._db.now())
            )
        return self.get(key_id)

    def _suggestion(self, key_id: str) -> str:
        """A hint at the key whose id or name is close to `key_id`."""
        rows = self.list()
        keys_by_text = {key.name: key for key in rows} | {key.id: key for key in rows}
        match = nearest(key_id, keys_by_text)
        if match is None:
            return ""
        key = keys_by_text[match]
        return f"; did you mean {key.id!r} ({key.name})?"

    def list(self) -> list[Key]:
        """All keys, including revoked ones, oldest first."""
        with self._db.read() as connection:
            rows = connection.execute(select(keys).order_by(keys.c.created_at, keys.c.id)).all()
        return [_key(row) for row in rows]

    def _new(self, key_id: str, name: str, scopes: Sequence[Scope], token: str) -> Key:
        checked_name(name, "name")
        if not scopes:
            raise InvalidInput("a key needs at least one scope", field="scopes")
        unique = tuple(dict.fromkeys(Scope(scope) for scope in scopes))
        return Key(key_id, name, unique, hash_token(token), self._db.now())


def _row(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": ",".join(key.scopes),
        "sha256": key.sha256,
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
    }


def _key(row: Row[Any]) -> Key:
    return Key(
        id=row.id,
        name=row.name,
        scopes=tuple(Scope(scope) for scope in row.scopes.split(",")),
        sha256=row.sha256,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )
