"""The Anthropic Messages protocol's requests as types with bounds, and its errors.

Source: the API's reference for version 2023-06-01. What is not here and changes the answer is
refused; what changes nothing is named in IGNORED.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from maas.domain.errors import InvalidInput, MaasError
from maas.domain.names import shown
from maas.gateway.http.request import JSON
from maas.gateway.openai.shapes import (
    MAX_MESSAGES,
    MAX_TOKENS,
    MAX_TOOLS,
    CallId,
    Description,
    FunctionName,
    ModelName,
    Share,
    Stop,
    status_of,
)

MAX_STOPS = 16


class TextBlock(Struct, tag_field="type", tag="text"):
    text: str


class ToolUseBlock(Struct, tag_field="type", tag="tool_use"):
    id: CallId
    name: FunctionName
    input: dict[str, Any]


class ToolResultBlock(Struct, tag_field="type", tag="tool_result"):
    tool_use_id: CallId
    content: str | list[TextBlock] = ""
    is_error: bool | None = None


Block = TextBlock | ToolUseBlock | ToolResultBlock


class AnthropicMessage(Struct, forbid_unknown_fields=True):
    role: Literal["user", "assistant"]
    content: str | Annotated[list[Block], Meta(max_length=MAX_MESSAGES)]


class AnthropicTool(Struct, forbid_unknown_fields=True):
    name: FunctionName
    input_schema: dict[str, Any]
    description: Description | None = None
    type: Literal["custom"] | None = None
    cache_control: dict[str, Any] | None = None
    strict: bool | None = None


class ToolChoice(Struct, forbid_unknown_fields=True):
    type: Literal["auto", "any", "tool", "none"]
    name: FunctionName | None = None
    disable_parallel_tool_use: bool = False


class Thinking(Struct):
    type: Literal["disabled"]


class CountRequest(Struct, kw_only=True):
    model: ModelName
    messages: Annotated[list[AnthropicMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    system: str | list[TextBlock] = ""
    tools: Annotated[list[AnthropicTool], Meta(max_length=MAX_TOOLS)] = []
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None


class MessagesRequest(CountRequest, kw_only=True):
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
    stop_sequences: Annotated[list[Stop], Meta(max_length=MAX_STOPS)] = []
    stream: bool = False
    temperature: Share | None = None
    top_p: Share | None = None


IGNORED = frozenset({"metadata", "service_tier", "cache_control", "inference_geo"})
REFUSED = {
    "top_k": "use top_p",
    "mcp_servers": "tools are called by the client",
    "container": "there are no containers",
    "context_management": "nothing is taken out of the messages",
    "output_config": "use tools, or /v1/chat/completions with response_format",
    "output_format": "use tools, or /v1/chat/completions with response_format",
}


def check_fields(body: dict[str, Any], known: tuple[str, ...]) -> None:
    """Raises InvalidInput for a field that is not known and might change the answer."""
    thinking = body.get("thinking")
    if isinstance(thinking, dict) and thinking.get("type") not in (None, "disabled"):
        raise InvalidInput("thinking is not supported here", field="thinking")
    for name in body:
        if name not in known and name not in IGNORED:
            why = REFUSED.get(name)
            said = f"{name} is not supported here: {why}" if why else f"unknown field {shown(name)}"
            raise InvalidInput(said, field=name[:200])


_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_body(error: MaasError) -> dict[str, Any]:
    status = status_of(error)
    usual = "api_error" if status >= 500 else "invalid_request_error"
    return {
        "type": "error",
        "error": {"type": _TYPES.get(status, usual), "message": error.message},
    }


def anthropic_shape(error: MaasError, request_id: str) -> tuple[int, bytes, bytes]:
    said = error_body(error)
    if request_id:
        said["request_id"] = request_id
    return status_of(error), JSON, json.dumps(said).encode()
