"""The error that only a client has: there is no server."""

from __future__ import annotations

from maas.domain.errors import Unavailable


class ServerUnavailable(Unavailable):
    """No server answers at this address."""

    code = "server_unavailable"
