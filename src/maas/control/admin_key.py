"""The first admin key, which is in the database and in a file of the home."""

from __future__ import annotations

import logging
from pathlib import Path

from maas.control.private_files import write_private
from maas.domain.keys import PREFIX, Scope, generate_token, hash_token
from maas.storage.keys import Keys

log = logging.getLogger(__name__)

NAME = "admin"


def ensure_admin_key(keys: Keys, file: Path) -> None:
    """Creates an admin key if there is none, or if the file exists and is empty.

    An empty file lets an owner who lost the key get another one; it requires write access to the
    home. The token is written to the file before the database: a start that is killed in between
    finds the token in the file and imports it, so file and database always agree.
    """
    existing = keys.list()
    if any(key.revoked_at is None and key.may(Scope.ADMIN) for key in existing):
        if not file.exists():
            log.warning(
                "the admin key is not in %s; if the key is lost, create that file, empty, and "
                "restart to get a new one",
                file,
            )
            return
        if file.stat().st_size:
            return
    token = _token_in(file)
    if not token or hash_token(token) in {key.sha256 for key in existing}:
        _, token = generate_token()
        write_private(file, f"{token}\n".encode(), durable=True)
    keys.import_token(NAME, [Scope.ADMIN], token)
    log.info("created an admin key; it is in %s", file)


def _token_in(file: Path) -> str:
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return token if token.startswith(PREFIX) and len(token) >= 32 else ""
