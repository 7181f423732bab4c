"""OpenMaaS: serve models.

    import maas

    client = maas.Client()
    client.publish(model, name="article", example=[1, 2, 3], evaluation=(x_test, y_test))
    client.deploy("article", model="article")
    client.predict("article", x=[1, 2, 3])  # {"y_pred": 3.29}

Names are imported on first use, so that `import maas` takes a few milliseconds.
"""

from __future__ import annotations

from types import ModuleType
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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'maas' has no attribute {name!r}")
    value = globals()[name] = getattr(_module_of(name), name)
    return value


def _module_of(name: str) -> ModuleType:
    """The module that defines an exported name."""
    if name in ("AsyncClient", "Client"):
        from maas.client import client  # noqa: PLC0415 — imported on first use

        return client
    if name == "ServerUnavailable":
        from maas.client.http import errors as http_errors  # noqa: PLC0415 — imported on first use

        return http_errors
    from maas.domain import errors  # noqa: PLC0415 — imported on first use

    return errors


def __dir__() -> list[str]:
    return sorted(__all__)
