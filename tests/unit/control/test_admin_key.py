"""The file of the admin key and the database agree, wherever a start is interrupted."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from maas.control.admin_key import ensure_admin_key
from maas.domain.keys import Scope, generate_token, hash_token
from maas.storage.database import Database
from maas.storage.keys import Keys


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    database = Database.open(f"sqlite:///{tmp_path / 'maas.db'}")
    yield Keys(database)
    database.close()


def agree(keys: Keys, file: Path) -> bool:
    """Whether the token in the file belongs to an active admin key."""
    digest = hash_token(file.read_text().strip())
    return any(
        k.sha256 == digest and k.revoked_at is None and k.may(Scope.ADMIN) for k in keys.list()
    )


def test_the_first_start_creates_a_key_and_later_ones_keep_it(keys: Keys, tmp_path: Path) -> None:
    file = tmp_path / "admin.key"
    ensure_admin_key(keys, file)
    assert agree(keys, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    token = file.read_text()
    ensure_admin_key(keys, file)
    assert file.read_text() == token and len(keys.list()) == 1


def test_a_start_killed_between_file_and_database_is_completed(keys: Keys, tmp_path: Path) -> None:
    file = tmp_path / "admin.key"
    _, token = generate_token()
    file.write_text(token + "\n")
    ensure_admin_key(keys, file)
    assert file.read_text().strip() == token and agree(keys, file)


@pytest.mark.parametrize("left", [b"", b"half a tok", b"\xff\xfe"])
def test_a_file_without_a_token_is_replaced(keys: Keys, tmp_path: Path, left: bytes) -> None:
    file = tmp_path / "admin.key"
    file.write_bytes(left)
    ensure_admin_key(keys, file)
    assert agree(keys, file)


def test_a_new_key_is_created_when_every_admin_key_is_revoked(keys: Keys, tmp_path: Path) -> None:
    file = tmp_path / "admin.key"
    ensure_admin_key(keys, file)
    former = file.read_text()
    keys.revoke(keys.list()[0].id)
    ensure_admin_key(keys, file)
    assert file.read_text() != former and agree(keys, file)


def test_any_other_admin_key_is_enough(keys: Keys, tmp_path: Path) -> None:
    keys.create("ops", [Scope.ADMIN])
    ensure_admin_key(keys, tmp_path / "admin.key")
    assert not (tmp_path / "admin.key").exists() and len(keys.list()) == 1


def test_an_empty_file_creates_another_key(keys: Keys, tmp_path: Path) -> None:
    file = tmp_path / "admin.key"
    ensure_admin_key(keys, file)
    lost = file.read_text()
    file.unlink()
    ensure_admin_key(keys, file)
    assert not file.exists()
    file.touch()
    ensure_admin_key(keys, file)
    assert file.read_text() not in ("", lost)
    assert agree(keys, file)
