"""What an Anthropic client asks for, as a generation: its blocks become messages."""

from __future__ import annotations

import json
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.generation import Generation
from maas.gateway.anthropic.shapes import (
    AnthropicMessage,
    CountRequest,
    MessagesRequest,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    check_fields,
)
from maas.gateway.text.json_body import check_size, typed
from maas.gateway.text.schema_limits import check_schema

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def messages_of(body: dict[str, Any]) -> tuple[str, Generation, bool]:
    """The deployment that is named, what it shall write, and whether to stream it. Raises
    InvalidInput."""
    check_fields(body, MessagesRequest.__struct_fields__)
    asked = typed(MessagesRequest, body)
    generation = Generation(
        **_shared(asked),
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        stop=list(asked.stop_sequences),
    )
    return asked.model, generation, asked.stream


def count_of(body: dict[str, Any]) -> tuple[str, Generation]:
    """As `messages_of`, to count what the prompt has. Raises InvalidInput."""
    check_fields(body, CountRequest.__struct_fields__)
    asked = typed(CountRequest, body)
    return asked.model, Generation(**_shared(asked), max_tokens=0)


def _shared(asked: CountRequest) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    system = _text(asked.system)
    if system:
        messages.append({"role": "system", "content": system})
    for number, message in enumerate(asked.messages):
        messages += _messages(message, f"messages[{number}]")
    shared: dict[str, Any] = {"messages": messages, "tools": _tools(asked)}
    choice = asked.tool_choice
    if choice is not None:
        shared["parallel_tool_calls"] = not choice.disable_parallel_tool_use
        shared["tool_choice"] = _tool_choice(asked)
    return shared


def _text(content: str | list[TextBlock]) -> str:
    return content if isinstance(content, str) else "".join(block.text for block in content)


def _messages(message: AnthropicMessage, field: str) -> list[dict[str, Any]]:
    """Results of tools are messages of their own, before what the user says besides."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number, block in enumerate(message.content):
        at = f"{field}.content[{number}]"
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif isinstance(block, ToolUseBlock):
            if message.role != "assistant":
                raise InvalidInput(f"{at}: tool_use is only said by the assistant", field=at)
            calls.append(_call(block, at))
        else:
            if message.role != "user":
                raise InvalidInput(f"{at}: tool_result is only said by the user", field=at)
            results.append(_result(block))
    text = "".join(texts)
    if calls:
        return [{"role": "assistant", "content": text, "tool_calls": calls}]
    if results and not text:
        return results
    return [*results, {"role": message.role, "content": text}]


def _call(block: ToolUseBlock, at: str) -> dict[str, Any]:
    check_size(block.input, f"{at}.input")
    arguments = json.dumps(block.input, ensure_ascii=False)
    function = {"name": block.name, "arguments": arguments}
    return {"id": block.id, "type": "function", "function": function}


def _result(block: ToolResultBlock) -> dict[str, Any]:
    text = _text(block.content)
    if block.is_error:
        text = f"Error: {text}"
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": text}


def _tools(asked: CountRequest) -> list[dict[str, Any]]:
    out = []
    names = set()
    for number, tool in enumerate(asked.tools):
        field = f"tools[{number}]"
        if tool.name in names:
            raise InvalidInput(f"{field}.name: {tool.name} is there twice", field=field)
        names.add(tool.name)
        check_schema(tool.input_schema, f"{field}.input_schema")
        made: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
        if tool.description is not None:
            made["description"] = tool.description
        out.append({"type": "function", "function": made})
    return out


def _tool_choice(asked: CountRequest) -> str | dict[str, Any] | None:
    choice = asked.tool_choice
    if choice is None or (choice.type == "none" and not asked.tools):
        return None
    if not asked.tools:
        raise InvalidInput("tool_choice needs tools", field="tool_choice")
    if choice.type != "tool":
        return _CHOICES[choice.type]
    if all(tool.name != choice.name for tool in asked.tools):
        raise InvalidInput(
            f"tool_choice.name: {choice.name} is none of the tools", field="tool_choice.name"
        )
    return {"type": "function", "function": {"name": choice.name}}
