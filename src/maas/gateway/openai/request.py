"""What an OpenAI client asks for, as generations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from maas.domain.errors import InvalidInput
from maas.domain.generation import Generation
from maas.domain.names import shown
from maas.gateway.openai.shapes import (
    MAX_PROMPTS,
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    ContentPart,
    FunctionTool,
    NamedTool,
    ToolsChoice,
    biases_of,
    check_fields,
    check_stream_options,
    said_in,
    stops_of,
)
from maas.gateway.text.json_body import parse_object, typed
from maas.gateway.text.schema_limits import check_schema

_SAID_BACK = frozenset({"refusal", "annotations", "reasoning", "reasoning_content"})
"""Of an earlier answer: clients send whole messages back."""


class ParsedRequest(NamedTuple):
    generations: list[Generation]
    per_prompt: int
    """How many of them, one after the other, are choices for the same prompt."""
    stream: bool
    include_usage: bool


def chat_of(body: dict[str, Any]) -> tuple[str, ParsedRequest]:
    """The deployment that is named, and what it shall write. Raises InvalidInput."""
    check_fields(body, ChatRequest.__struct_fields__)
    body = said_in(body)
    asked = typed(ChatRequest, body)
    tools, tool_choice = _chosen_tools(asked)
    if asked.top_logprobs is not None and not asked.logprobs:
        raise InvalidInput("top_logprobs needs logprobs: true", field="top_logprobs")
    generation = Generation(
        messages=[
            _message(message, raw, f"messages[{number}]")
            for number, (message, raw) in enumerate(
                zip(asked.messages, body["messages"], strict=True)
            )
        ],
        max_tokens=_max_tokens(asked),
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        logit_bias=biases_of(asked),
        stop=stops_of(asked),
        logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        response_format=_response_format(asked),
        tools=_tools(tools),
        tool_choice=tool_choice,
        parallel_tool_calls=asked.parallel_tool_calls,
    )
    usage = check_stream_options(asked)
    return asked.model, ParsedRequest(_choices(generation, asked.n), asked.n, asked.stream, usage)


def completions_of(body: dict[str, Any]) -> tuple[str, ParsedRequest, CompletionRequest]:
    """As `chat_of`, for text that is continued as it is."""
    check_fields(body, (*CompletionRequest.__struct_fields__,))
    asked = typed(CompletionRequest, said_in(body))
    prompts = _prompts(asked)
    if asked.echo and (asked.logprobs is not None or not isinstance(prompts[0], str)):
        raise InvalidInput(
            "echo: only of a prompt that is a text, and without logprobs", field="echo"
        )
    base = Generation(
        prompt="",
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        logit_bias=biases_of(asked),
        stop=stops_of(asked),
        logprobs=asked.logprobs,
    )
    generations: list[Generation] = []
    for prompt in prompts:
        generations += _choices(replace(base, prompt=prompt), asked.n)
    usage = check_stream_options(asked)
    return asked.model, ParsedRequest(generations, asked.n, asked.stream, usage), asked


def named_model(body: bytes | bytearray) -> tuple[str, dict[str, Any]]:
    """The body and the model that it names, "" if it names none; raises MalformedBody."""
    parsed = parse_object(body)
    model = parsed.get("model")
    return model if isinstance(model, str) else "", parsed


def _choices(generation: Generation, n: int) -> list[Generation]:
    """Choices with one seed would all be the same."""
    if generation.seed is None or n == 1:
        return [generation] * n
    top = 1 << 63
    seeds = ((generation.seed + number + top) % (2 * top) - top for number in range(n))
    return [replace(generation, seed=seed) for seed in seeds]


def _prompts(asked: CompletionRequest) -> list[str | list[int]]:
    prompt = asked.prompt
    if isinstance(prompt, str):
        return [prompt]
    if all(isinstance(item, int) for item in prompt):
        return [[item for item in prompt if isinstance(item, int)]]
    if len(prompt) * asked.n > MAX_PROMPTS:
        raise InvalidInput(
            f"prompt: at most {MAX_PROMPTS} choices in all, got {len(prompt)} prompts with "
            f"{asked.n} each",
            field="prompt",
        )
    if any(type(item) is not type(prompt[0]) for item in prompt):
        raise InvalidInput("prompt: expected texts, or tokens, or lists of tokens, got a mixture",
                           field="prompt")  # fmt: skip
    return [item for item in prompt if not isinstance(item, int)]


def _max_tokens(asked: ChatRequest) -> int | None:
    old, new = asked.max_tokens, asked.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise InvalidInput(
            f"max_tokens and max_completion_tokens mean the same; got {old} and {new}",
            field="max_completion_tokens",
        )
    return old if new is None else new


# -- messages ---------------------------------------------------------------------------------


def _message(message: ChatMessage, raw: dict[str, Any], field: str) -> dict[str, Any]:
    for name, value in raw.items():
        known = name in ChatMessage.__struct_fields__ or name in _SAID_BACK
        if not known and value not in (None, [], {}):
            raise InvalidInput(f"{field}.{name} is not supported here", field=f"{field}.{name}")
    role = "system" if message.role == "developer" else message.role
    out: dict[str, Any] = {"role": role, "content": _text(message.content, f"{field}.content")}
    if message.name is not None:
        out["name"] = message.name
    if message.tool_calls and role != "assistant":
        raise InvalidInput(
            f"{field}.tool_calls: only in messages of the assistant", field=f"{field}.tool_calls"
        )
    if message.tool_calls:
        out["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in message.tool_calls
        ]
    elif message.content is None:
        raise InvalidInput(f"{field}.content is missing", field=f"{field}.content")
    if (message.tool_call_id is not None) != (role == "tool"):
        raise InvalidInput(
            f"{field}.tool_call_id: expected in messages of the role tool, and only there",
            field=f"{field}.tool_call_id",
        )
    if message.tool_call_id is not None:
        out["tool_call_id"] = message.tool_call_id
    return out


def _text(content: str | list[ContentPart] | None, field: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for number, part in enumerate(content):
        said = part.refusal if part.type == "refusal" else part.text
        if part.type not in ("text", "refusal") or said is None:
            at = f"{field}[{number}]"
            if part.type in ("text", "refusal"):
                raise InvalidInput(f"{at}.{part.type} is missing", field=at)
            raise InvalidInput(f"{at}: this model reads text, not {shown(part.type)}", field=at)
        texts.append(said)
    return "".join(texts)


# -- formats and tools ------------------------------------------------------------------------


def _response_format(asked: ChatRequest) -> dict[str, Any] | None:
    wanted = asked.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "json_object"}
    field = "response_format.json_schema"
    if wanted.json_schema is None or wanted.json_schema.schema is None:
        field += "" if wanted.json_schema is None else ".schema"
        raise InvalidInput(f"{field} is missing", field=field)
    check_schema(wanted.json_schema.schema, f"{field}.schema")
    return {"type": "json_schema", "schema": wanted.json_schema.schema}


def _tools(tools: list[FunctionTool]) -> list[dict[str, Any]]:
    out = []
    names = set()
    for number, tool in enumerate(tools):
        function = tool.function
        field = f"tools[{number}].function"
        if function.name in names:
            raise InvalidInput(f"{field}.name: {function.name} is there twice", field=field)
        names.add(function.name)
        parameters = function.parameters or {"type": "object", "properties": {}}
        check_schema(parameters, f"{field}.parameters")
        made: dict[str, Any] = {"name": function.name, "parameters": parameters}
        if function.description is not None:
            made["description"] = function.description
        if function.strict is not None:
            made["strict"] = function.strict
        out.append({"type": "function", "function": made})
    return out


def _chosen_tools(asked: ChatRequest) -> tuple[list[FunctionTool], str | dict[str, Any] | None]:
    """The tools that may be called, and whether one must be."""
    choice = asked.tool_choice
    if choice is None:
        return asked.tools, None
    if not asked.tools:
        if choice == "none":
            return [], None
        raise InvalidInput("tool_choice needs tools", field="tool_choice")
    if not isinstance(choice, NamedTool | ToolsChoice):
        return asked.tools, choice
    named = [choice] if isinstance(choice, NamedTool) else choice.allowed_tools.tools
    names = {tool.function.name for tool in named}
    for name in sorted(names - {tool.function.name for tool in asked.tools}):
        raise InvalidInput(f"tool_choice: {name} is none of the tools", field="tool_choice")
    if isinstance(choice, NamedTool):
        return asked.tools, {"type": "function", "function": {"name": choice.function.name}}
    allowed = [tool for tool in asked.tools if tool.function.name in names]
    return allowed, choice.allowed_tools.mode
