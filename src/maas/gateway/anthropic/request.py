"""Anthropic requests as generations: content blocks become messages."""

from __future__ import annotations

import json
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.generation import Generation
from maas.gateway.anthropic.fields import check_fields
from maas.gateway.text.json_body import check_size, to_struct
from maas.gateway.text.schema_limits import check_schema
from maas.protocols.anthropic import (
    AnthropicMessage,
    CountRequest,
    MessagesRequest,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
)

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
"""By `tool_choice.type`, the engine's `tool_choice`."""


def messages_request(body: dict[str, Any]) -> tuple[str, Generation, bool]:
    """The deployment's name, the generation, and whether to stream it. Raises InvalidInput."""
    check_fields(body, MessagesRequest.__struct_fields__)
    request = to_struct(MessagesRequest, body)
    generation = Generation(
        **_prompt(request),
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        stop=list(request.stop_sequences),
    )
    return request.model, generation, request.stream


def count_request(body: dict[str, Any]) -> tuple[str, Generation]:
    """The deployment's name, and a generation that only counts the prompt's tokens.

    Raises InvalidInput.
    """
    check_fields(body, CountRequest.__struct_fields__)
    request = to_struct(CountRequest, body)
    return request.model, Generation(**_prompt(request), max_tokens=0)


def _prompt(request: CountRequest) -> dict[str, Any]:
    """The fields of a Generation that make the prompt."""
    messages: list[dict[str, Any]] = []
    system = _text(request.system)
    if system:
        messages.append({"role": "system", "content": system})
    for index, message in enumerate(request.messages):
        messages += _messages(message, f"messages[{index}]")
    prompt: dict[str, Any] = {"messages": messages, "tools": _tools(request)}
    choice = request.tool_choice
    if choice is not None:
        prompt["parallel_tool_calls"] = not choice.disable_parallel_tool_use
        prompt["tool_choice"] = _tool_choice(request)
    return prompt


def _text(content: str | list[TextBlock]) -> str:
    if isinstance(content, str):
        return content
    return "".join(block.text for block in content)


def _messages(message: AnthropicMessage, field: str) -> list[dict[str, Any]]:
    """The engine's messages for one message: each tool result is a message, before the text."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for index, block in enumerate(message.content):
        block_field = f"{field}.content[{index}]"
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif isinstance(block, ToolUseBlock):
            if message.role != "assistant":
                raise InvalidInput(
                    f"{block_field}: tool_use is only allowed in messages of the assistant",
                    field=block_field,
                )
            calls.append(_call(block, block_field))
        else:
            if message.role != "user":
                raise InvalidInput(
                    f"{block_field}: tool_result is only allowed in messages of the user",
                    field=block_field,
                )
            results.append(_result(block))
    text = "".join(texts)
    if calls:
        return [{"role": "assistant", "content": text, "tool_calls": calls}]
    if results and not text:
        return results
    return [*results, {"role": message.role, "content": text}]


def _call(block: ToolUseBlock, field: str) -> dict[str, Any]:
    check_size(block.input, f"{field}.input")
    arguments = json.dumps(block.input, ensure_ascii=False)
    function = {"name": block.name, "arguments": arguments}
    return {"id": block.id, "type": "function", "function": function}


def _result(block: ToolResultBlock) -> dict[str, Any]:
    text = _text(block.content)
    if block.is_error:
        text = f"Error: {text}"
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": text}


def _tools(request: CountRequest) -> list[dict[str, Any]]:
    """The tools for the engine. Raises InvalidInput for a repeated name or an invalid schema."""
    out = []
    names = set()
    for index, tool in enumerate(request.tools):
        field = f"tools[{index}]"
        if tool.name in names:
            raise InvalidInput(f"{field}.name: another tool is named {tool.name} too", field=field)
        names.add(tool.name)
        check_schema(tool.input_schema, f"{field}.input_schema")
        function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
        if tool.description is not None:
            function["description"] = tool.description
        out.append({"type": "function", "function": function})
    return out


def _tool_choice(request: CountRequest) -> str | dict[str, Any] | None:
    """`tool_choice` for the engine. Raises InvalidInput for a choice without its tool."""
    choice = request.tool_choice
    if choice is None or (choice.type == "none" and not request.tools):
        return None
    if not request.tools:
        raise InvalidInput("tool_choice needs tools", field="tool_choice")
    if choice.type != "tool":
        return _CHOICES[choice.type]
    if all(tool.name != choice.name for tool in request.tools):
        raise InvalidInput(
            f"tool_choice.name: {choice.name} is not one of the tools", field="tool_choice.name"
        )
    return {"type": "function", "function": {"name": choice.name}}
