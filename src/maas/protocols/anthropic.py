"""Requests and answers of the Anthropic Messages protocol.

Source: the API reference for version 2023-06-01. A field of the protocol that is missing here
changes the answer and is refused; `gateway/anthropic/fields.py` lists those that change nothing.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from maas.protocols.bounds import (
    MAX_MESSAGES,
    MAX_TOOLS,
    CallId,
    Count,
    Description,
    FunctionName,
    JsonObject,
    ModelName,
    Probability,
    Stop,
    TokenLimit,
)

MAX_STOPS = 16


class TextBlock(Struct, tag_field="type", tag="text"):
    text: str


class ToolUseBlock(Struct, tag_field="type", tag="tool_use"):
    id: CallId
    name: FunctionName
    input: JsonObject


class ToolResultBlock(Struct, tag_field="type", tag="tool_result"):
    tool_use_id: CallId
    content: str | list[TextBlock] = ""
    is_error: bool | None = None


Block = TextBlock | ToolUseBlock | ToolResultBlock


class AnthropicMessage(Struct, forbid_unknown_fields=True):
    """A message of a conversation. Blocks hold text, tool calls and tool results."""

    role: Literal["user", "assistant"]
    content: str | Annotated[list[Block], Meta(max_length=MAX_MESSAGES)]


class AnthropicTool(Struct, forbid_unknown_fields=True):
    """A function that the model may call."""

    name: FunctionName
    input_schema: Annotated[JsonObject, Meta(description="JSON Schema of the arguments")]
    description: Description | None = None
    type: Literal["custom"] | None = None
    cache_control: JsonObject | None = None
    strict: bool | None = None


class ToolChoice(Struct, forbid_unknown_fields=True):
    """Whether, and which, tools are called."""

    type: Literal["auto", "any", "tool", "none"]
    name: FunctionName | None = None
    disable_parallel_tool_use: bool = False


class Thinking(Struct):
    type: Literal["disabled"]


class CountRequest(Struct, kw_only=True):
    """A prompt whose tokens are counted."""

    model: ModelName
    messages: Annotated[list[AnthropicMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    system: str | list[TextBlock] = ""
    tools: Annotated[list[AnthropicTool], Meta(max_length=MAX_TOOLS)] = []
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None


class MessagesRequest(CountRequest, kw_only=True):
    """A conversation to answer."""

    max_tokens: TokenLimit
    stop_sequences: Annotated[
        list[Stop],
        Meta(max_length=MAX_STOPS, description=f"At most {MAX_STOPS} texts that end the answer"),
    ] = []
    stream: Annotated[bool, Meta(description="Answer with named server-sent events")] = False
    temperature: Probability | None = None
    top_p: Probability | None = None


StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class MessagesUsage(Struct):
    """All of the prompt counts as input: this protocol's prompt cache is not offered."""

    input_tokens: Count
    output_tokens: Count
    cache_creation_input_tokens: Count
    cache_read_input_tokens: Count


class MessagesAnswer(Struct):
    """A generated answer."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: ModelName
    content: list[TextBlock | ToolUseBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessagesUsage


class CountedTokens(Struct):
    input_tokens: Count


class AnthropicErrorDetails(Struct):
    type: str
    message: str


class AnthropicError(Struct):
    """An error in the protocol's own shape."""

    type: Literal["error"]
    error: AnthropicErrorDetails
    request_id: str | UnsetType = UNSET
