"""OpenAI requests as generations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from maas.domain.errors import InvalidInput
from maas.domain.generation import Generation
from maas.domain.names import shown
from maas.gateway.openai.fields import (
    biases_of,
    check_fields,
    includes_usage,
    stops_of,
    without_nulls,
)
from maas.gateway.text.json_body import to_struct
from maas.gateway.text.schema_limits import check_schema
from maas.protocols.openai_requests import (
    MAX_PROMPTS,
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    ContentPart,
    FunctionTool,
    NamedTool,
    SamplingRequest,
    ToolsChoice,
)

_ANSWER_FIELDS = frozenset({"refusal", "annotations", "reasoning", "reasoning_content"})
"""Fields of an earlier answer that are ignored: clients send whole messages back."""


class GenerationRequest(NamedTuple):
    """A request for chat or completions."""

    model: str
    generations: list[Generation]
    choices_per_prompt: int
    """Consecutive generations that are choices for the same prompt."""
    stream: bool
    include_usage: bool
    """Whether the stream ends with the token counts."""
    echo: bool = False
    """Whether each choice begins with its prompt."""


def chat_request(body: dict[str, Any]) -> GenerationRequest:
    """Raises InvalidInput."""
    check_fields(body, ChatRequest.__struct_fields__)
    body = without_nulls(body)
    request = to_struct(ChatRequest, body)
    tools, tool_choice = _chosen_tools(request)
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidInput("top_logprobs needs logprobs: true", field="top_logprobs")
    messages = []
    for index, (message, raw) in enumerate(zip(request.messages, body["messages"], strict=True)):
        messages.append(_message(message, raw, f"messages[{index}]"))
    generation = Generation(
        messages=messages,
        max_tokens=_max_tokens(request),
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        response_format=_response_format(request),
        tools=_tools(tools),
        tool_choice=tool_choice,
        parallel_tool_calls=request.parallel_tool_calls,
        **_sampling(request),
    )
    generations = _choices(generation, request.n)
    include_usage = includes_usage(request)
    return GenerationRequest(request.model, generations, request.n, request.stream, include_usage)


def completion_request(body: dict[str, Any]) -> GenerationRequest:
    """Raises InvalidInput."""
    check_fields(body, CompletionRequest.__struct_fields__)
    request = to_struct(CompletionRequest, without_nulls(body))
    prompts = _prompts(request)
    if request.echo and (request.logprobs is not None or not isinstance(prompts[0], str)):
        raise InvalidInput(
            "echo: only supported for a prompt that is a text, and without logprobs", field="echo"
        )
    base = Generation(
        prompt="",
        max_tokens=request.max_tokens,
        logprobs=request.logprobs,
        **_sampling(request),
    )
    generations: list[Generation] = []
    for prompt in prompts:
        generations += _choices(replace(base, prompt=prompt), request.n)
    include_usage = includes_usage(request)
    return GenerationRequest(
        request.model, generations, request.n, request.stream, include_usage, request.echo
    )


def _sampling(request: SamplingRequest) -> dict[str, Any]:
    """The fields of a Generation that chat and completions share."""
    return {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "logit_bias": biases_of(request),
        "stop": stops_of(request),
    }


def _choices(generation: Generation, n: int) -> list[Generation]:
    """`n` generations; each has its own seed, as choices with one seed would be the same."""
    if generation.seed is None or n == 1:
        return [generation] * n
    top = 1 << 63
    seeds = ((generation.seed + number + top) % (2 * top) - top for number in range(n))
    return [replace(generation, seed=seed) for seed in seeds]


def _prompts(request: CompletionRequest) -> list[str | list[int]]:
    prompt = request.prompt
    if isinstance(prompt, str):
        return [prompt]
    if all(isinstance(item, int) for item in prompt):
        return [[item for item in prompt if isinstance(item, int)]]
    if len(prompt) * request.n > MAX_PROMPTS:
        raise InvalidInput(
            f"prompt: expected at most {MAX_PROMPTS} choices in all, got {len(prompt)} prompts "
            f"with {request.n} each",
            field="prompt",
        )
    if any(type(item) is not type(prompt[0]) for item in prompt):
        raise InvalidInput("prompt: expected texts, or tokens, or lists of tokens, got a mixture",
                           field="prompt")  # fmt: skip
    return [item for item in prompt if not isinstance(item, int)]


def _max_tokens(request: ChatRequest) -> int | None:
    old, new = request.max_tokens, request.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise InvalidInput(
            f"max_tokens and max_completion_tokens mean the same; got {old} and {new}",
            field="max_completion_tokens",
        )
    return old if new is None else new


# -- messages ---------------------------------------------------------------------------------


def _message(message: ChatMessage, raw: dict[str, Any], field: str) -> dict[str, Any]:
    """The message for the engine; `raw` is checked for unsupported fields."""
    for name, value in raw.items():
        is_supported = name in ChatMessage.__struct_fields__ or name in _ANSWER_FIELDS
        if not is_supported and value not in (None, [], {}):
            raise InvalidInput(f"{field}.{name} is not supported here", field=f"{field}.{name}")
    role = "system" if message.role == "developer" else message.role
    out: dict[str, Any] = {"role": role, "content": _text(message.content, f"{field}.content")}
    if message.name is not None:
        out["name"] = message.name
    if message.tool_calls and role != "assistant":
        raise InvalidInput(
            f"{field}.tool_calls: only allowed in messages of the assistant",
            field=f"{field}.tool_calls",
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
    for index, part in enumerate(content):
        part_field = f"{field}[{index}]"
        if part.type not in ("text", "refusal"):
            raise InvalidInput(
                f"{part_field}: expected text, got {shown(part.type)}", field=part_field
            )
        text = part.refusal if part.type == "refusal" else part.text
        if text is None:
            raise InvalidInput(f"{part_field}.{part.type} is missing", field=part_field)
        texts.append(text)
    return "".join(texts)


# -- formats and tools ------------------------------------------------------------------------


def _response_format(request: ChatRequest) -> dict[str, Any] | None:
    response_format = request.response_format
    if response_format is None or response_format.type == "text":
        return None
    if response_format.type == "json_object":
        return {"type": "json_object"}
    field = "response_format.json_schema"
    json_schema = response_format.json_schema
    if json_schema is None:
        raise InvalidInput(f"{field} is missing", field=field)
    if json_schema.schema is None:
        raise InvalidInput(f"{field}.schema is missing", field=f"{field}.schema")
    check_schema(json_schema.schema, f"{field}.schema")
    return {"type": "json_schema", "schema": json_schema.schema}


def _tools(tools: list[FunctionTool]) -> list[dict[str, Any]]:
    """The tools for the engine. Raises InvalidInput for a repeated name or an invalid schema."""
    out = []
    names = set()
    for index, tool in enumerate(tools):
        function = tool.function
        field = f"tools[{index}].function"
        if function.name in names:
            raise InvalidInput(
                f"{field}.name: another tool is named {function.name} too", field=field
            )
        names.add(function.name)
        parameters = function.parameters or {"type": "object", "properties": {}}
        check_schema(parameters, f"{field}.parameters")
        description: dict[str, Any] = {"name": function.name, "parameters": parameters}
        if function.description is not None:
            description["description"] = function.description
        if function.strict is not None:
            description["strict"] = function.strict
        out.append({"type": "function", "function": description})
    return out


def _chosen_tools(
    request: ChatRequest,
) -> tuple[list[FunctionTool], str | dict[str, Any] | None]:
    """The tools that may be called, and `tool_choice` for the engine."""
    choice = request.tool_choice
    if choice is None:
        return request.tools, None
    if not request.tools:
        if choice == "none":
            return [], None
        raise InvalidInput("tool_choice needs tools", field="tool_choice")
    if not isinstance(choice, NamedTool | ToolsChoice):
        return request.tools, choice
    chosen = [choice] if isinstance(choice, NamedTool) else choice.allowed_tools.tools
    names = {tool.function.name for tool in chosen}
    for name in sorted(names - {tool.function.name for tool in request.tools}):
        raise InvalidInput(f"tool_choice: {name} is not one of the tools", field="tool_choice")
    if isinstance(choice, NamedTool):
        return request.tools, {"type": "function", "function": {"name": choice.function.name}}
    allowed = [tool for tool in request.tools if tool.function.name in names]
    return allowed, choice.allowed_tools.mode
