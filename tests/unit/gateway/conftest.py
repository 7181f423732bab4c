from __future__ import annotations

from tests.support.fakes.text_replica import text_gateway
from tests.support.gateway import gateway

__all__ = ["gateway", "text_gateway"]
