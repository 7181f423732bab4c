"""OpenMaaS: turn a model into a service.

    import maas

    client = maas.Client()
    client.publish(module, name="article", example=[1, 2, 3], evaluation=(x, y))
    client.deploy("article", model="article")
    client.predict("article", x=[1, 2, 3])

Names are imported when they are first used, so that `import maas` costs a few milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from maas.version import __version__

if TYPE_CHECKING:
    from maas.client.client import AsyncClient, Client
    from maas.client.http.errors import ServerUnavailable
    from maas.domain.errors import (
        Conflict,
        DeadlineExceeded,
        Forbidden,
        InvalidInput,
        MaasError,
        NotFound,
        Overloaded,
        Unauthenticated,
        Unavailable,
        UnsafeArtifact,
    )


__all__ = [
    "AsyncClient",
    "Client",
    "Conflict",
    "DeadlineExceeded",
    "Forbidden",
    "InvalidInput",
    "MaasError",
    "NotFound",
    "Overloaded",
    "ServerUnavailable",
    "Unauthenticated",
    "Unavailable",
    "UnsafeArtifact",
    "__version__",
]

_HOMES = {
    "AsyncClient": "maas.client.client",
    "Client": "maas.client.client",
    "ServerUnavailable": "maas.client.http.errors",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'maas' has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "maas.domain.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
