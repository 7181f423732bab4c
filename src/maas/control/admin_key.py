"""The first admin key: in the database and in a file of the home, or in neither."""

from __future__ import annotations

import logging
from pathlib import Path

from maas.control.private_files import write_private
from maas.domain.keys import PREFIX, Scope, generate_token, hash_token
from maas.storage.keys import Keys

log = logging.getLogger(__name__)

NAME = "admin"


def ensure_admin_key(keys: Keys, file: Path) -> None:
    """Makes an admin key if nobody has one, or if the file is there and empty: that is how an
    owner who lost the key asks for another, and only who may write here can.

    The file comes first: a start that dies before the database has the key finds the token in the
    file again and imports that one, so the two agree whenever there is a key at all.
    """
    known = keys.list()
    if any(key.revoked_at is None and key.may(Scope.ADMIN) for key in known):
        if not file.exists():
            log.warning(
                "there is an admin key, but %s does not have it; if it is lost, make that file, "
                "empty, and start again to get another",
                file,
            )
            return
        if file.stat().st_size:
            return
    token = _token_in(file)
    if not token or hash_token(token) in {key.sha256 for key in known}:
        _, token = generate_token()
        write_private(file, f"{token}\n".encode(), durable=True)
    keys.import_token(NAME, [Scope.ADMIN], token)
    log.info("made an admin key; it is in %s", file)


def _token_in(file: Path) -> str:
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return token if token.startswith(PREFIX) and len(token) >= 32 else ""
