"""Fields of Anthropic requests that are ignored or refused."""

from __future__ import annotations

from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.names import shown

IGNORED = frozenset({"metadata", "service_tier", "cache_control", "inference_geo"})
REFUSED = {
    "top_k": "use top_p",
    "mcp_servers": "tools are called by the client",
    "container": "there are no containers",
    "context_management": "messages are never removed",
    "output_config": "use tools, or /v1/chat/completions with response_format",
    "output_format": "use tools, or /v1/chat/completions with response_format",
}
"""By name, the reason or the field to use instead."""


def check_fields(body: dict[str, Any], supported: tuple[str, ...]) -> None:
    """Raises InvalidInput for a field that is not supported and might change the answer."""
    thinking = body.get("thinking")
    if isinstance(thinking, dict) and thinking.get("type") not in (None, "disabled"):
        raise InvalidInput("thinking is not supported here", field="thinking")
    for name in body:
        if name in supported or name in IGNORED:
            continue
        reason = REFUSED.get(name)
        message = f"{name} is not supported here: {reason}"
        if reason is None:
            message = f"unknown field {shown(name)}"
        raise InvalidInput(message, field=name[:200])
