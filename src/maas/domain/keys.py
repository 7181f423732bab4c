"""API keys: `maas_<id>_<secret>`, shown once, stored as SHA-256.

The secret has 256 random bits, so a fast hash is enough: a dictionary attack cannot find it, and
the check costs about a microsecond on every request.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

PREFIX = "maas_"


class Scope(StrEnum):
    """Permission of a key. Every route declares the scope that it requires."""

    CALL = "call"
    """predict, explain, Open Inference Protocol"""
    READ = "read"
    """see models, deployments, usage, metrics, status"""
    WRITE = "write"
    """publish, deploy, run jobs"""
    ADMIN = "admin"
    """keys, logs; implies all others"""


@dataclass(frozen=True)
class Key:
    """A key as it is stored: everything except the secret."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    sha256: str
    """SHA-256 of the whole token, hexadecimal."""
    created_at: float = 0.0
    revoked_at: float | None = None

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def to_dict(self) -> dict[str, Any]:
        """This key as the API shows it, without the hash."""
        return {
            "id": self.id,
            "name": self.name,
            "scopes": [str(s) for s in self.scopes],
            "created_at": self.created_at,
            "revoked_at": self.revoked_at,
        }


def hash_token(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def generate_token() -> tuple[str, str]:
    """A new key id and its token: `("k3f…", "maas_k3f…_…")`."""
    key_id = secrets.token_hex(6)
    return key_id, f"{PREFIX}{key_id}_{secrets.token_urlsafe(32)}"
