"""Who is calling: the keys of the snapshot, in memory, by the hash of their token."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from maas.domain.errors import BadRequest, Forbidden, Unauthenticated
from maas.domain.keys import Key, Scope, hash_token
from maas.domain.names import shown

_LOOPBACK = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})


class KeyRing:
    def __init__(self) -> None:
        self._by_hash: dict[str, Key] = {}
        self.look_again: Callable[[], None] = _nothing
        """Called before a key is refused as unknown: it may be newer than what we know, and
        whoever made it has been told that it is there."""

    def replace(self, keys: Iterable[Key]) -> None:
        self._by_hash = {key.sha256: key for key in keys if key.revoked_at is None}

    def knows(self, key: Key) -> bool:
        """Whether `key` may still be used."""
        return key.sha256 in self._by_hash

    def authenticate(self, headers: dict[bytes, bytes]) -> Key:
        """The key of `Authorization: Bearer` or `X-API-Key`; raises Unauthenticated.

        The token is looked up by its SHA-256, so how long this takes says nothing about how much
        of a guess was right.
        """
        token = headers.get(b"x-api-key")
        if token is None:
            scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
            if not token or scheme.lower() != b"bearer":
                raise Unauthenticated()
        hashed = hash_token(token.strip().decode("latin-1"))
        key = self._by_hash.get(hashed)
        if key is None:
            self.look_again()
            key = self._by_hash.get(hashed)
        if key is None:
            raise Unauthenticated("this key is not known, or it was revoked")
        return key


def _nothing() -> None:
    pass


def require(key: Key, scope: Scope) -> None:
    if not key.may(scope):
        raise Forbidden(f"this needs a key with the scope {scope}; {key.name!r} has "
                        f"{', '.join(key.scopes)}")  # fmt: skip


class HostCheck:
    """Refuses requests meant for another host, which is how a web page reaches a local server
    under its own name (DNS rebinding), and changes that come from another site's page."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._names = _LOOPBACK | {_as_in_url(name).lower().encode() for name in allowed}
        self._seen: set[bytes] = set()

    def check(self, method: str, headers: dict[bytes, bytes]) -> None:
        """Raises BadRequest for a foreign Host and Forbidden for a foreign Origin."""
        self.check_host(headers.get(b"host", b""))
        origin = headers.get(b"origin")
        if origin is not None and method not in ("GET", "HEAD"):
            try:
                netloc = urlsplit(origin.decode("ascii")).netloc.lower().encode()
            except ValueError:
                netloc = b""
            if _without_port(netloc) not in self._names:
                raise Forbidden("requests from other sites' pages are refused")

    def check_host(self, host: bytes) -> None:
        """`host` as in a URL, with or without a port; raises BadRequest."""
        if host not in self._seen:
            if _without_port(host.lower()) not in self._names:
                raise BadRequest(
                    f"the Host {shown(host.decode('latin-1'))} is not served here; allow it with "
                    "server.allowed_hosts"
                )
            if len(self._seen) < 256:
                self._seen.add(host)


def _as_in_url(name: str) -> str:
    """IPv6 addresses stand in brackets there."""
    return f"[{name}]" if ":" in name and not name.startswith("[") else name


def _without_port(host: bytes) -> bytes:
    name, colon, port = host.rpartition(b":")
    return name if colon and port.isdigit() else host
