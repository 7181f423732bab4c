"""Authenticates clients by the keys of the snapshot, and checks Host and Origin."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from maas.domain.errors import BadRequest, Forbidden, Unauthenticated
from maas.domain.keys import Key, Scope, hash_token
from maas.domain.names import shown

_LOOPBACK = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})


class KeyRing:
    """The valid keys, in memory, by the SHA-256 of their token."""

    def __init__(self) -> None:
        self._by_hash: dict[str, Key] = {}
        self.reload: Callable[[], None] = _nothing
        """Called before an unknown key is refused: it may have been created since the last
        snapshot was read."""

    def replace(self, keys: Iterable[Key]) -> None:
        self._by_hash = {key.sha256: key for key in keys if key.revoked_at is None}

    def is_valid(self, key: Key) -> bool:
        """Whether `key` is not revoked."""
        return key.sha256 in self._by_hash

    def authenticate(self, headers: dict[bytes, bytes]) -> Key:
        """The key in `Authorization: Bearer` or `X-API-Key`. Raises Unauthenticated.

        The lookup is by SHA-256, so that its duration does not reveal how much of a guessed token
        is right.
        """
        token = headers.get(b"x-api-key")
        if token is None:
            scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
            if not token or scheme.lower() != b"bearer":
                raise Unauthenticated()
        hashed = hash_token(token.strip().decode("latin-1"))
        key = self._by_hash.get(hashed)
        if key is None:
            self.reload()
            key = self._by_hash.get(hashed)
        if key is None:
            raise Unauthenticated("this key is unknown or revoked")
        return key


def _nothing() -> None:
    pass


def require(key: Key, scope: Scope) -> None:
    """Raises Forbidden if `key` does not have `scope`."""
    if not key.may(scope):
        raise Forbidden(
            f"the scope {str(scope)!r} is required; key {key.name} has {', '.join(key.scopes)}"
        )


class HostCheck:
    """Refuses requests for other hosts, and changes that a page of another site requests.

    The first prevents DNS rebinding, by which a web page reaches a local server under the page's
    own name.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        """`allowed` are names or addresses besides those of the loopback interface."""
        self._names = _LOOPBACK | {_as_in_url(name).lower().encode() for name in allowed}
        self._accepted: set[bytes] = set()
        """A cache of accepted Host headers."""

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
        """Raises BadRequest for a foreign `host`, written as in a URL, with or without a port."""
        if host not in self._accepted:
            if _without_port(host.lower()) not in self._names:
                raise BadRequest(
                    f"the Host {shown(host.decode('latin-1'))} is not served here; allow it with "
                    "server.allowed_hosts"
                )
            if len(self._accepted) < 256:
                self._accepted.add(host)


def _as_in_url(name: str) -> str:
    """`name` as in a URL, with brackets around an IPv6 address."""
    return f"[{name}]" if ":" in name and not name.startswith("[") else name


def _without_port(host: bytes) -> bytes:
    name, colon, port = host.rpartition(b":")
    return name if colon and port.isdigit() else host
