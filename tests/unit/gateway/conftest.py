from __future__ import annotations

from tests.support.gateway import gateway

__all__ = ["gateway"]
