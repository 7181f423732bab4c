"""The one error that only a client can have: nobody answers."""

from __future__ import annotations

from maas.domain.errors import Unavailable


class ServerUnavailable(Unavailable):
    """No server answers at this address."""

    code = "server_unavailable"
