"""Requests of OpenAI's chat and completions protocols.

Source: openai/openai-openapi 2.3.0. A field of the protocol that is missing here changes the
answer and is refused; the fields that change nothing are listed in `gateway/openai/fields.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from maas.protocols.bounds import (
    MAX_MESSAGES,
    MAX_TOKENS,
    MAX_TOOLS,
    CallId,
    Description,
    FunctionName,
    JsonObject,
    ModelName,
    Probability,
    Stop,
    TokenId,
    TokenLimit,
)

MAX_CHOICES = 16
MAX_STOPS = 4
MAX_BIASES = 1024
MAX_LOGPROBS = 20
MAX_PROMPTS = 64

Temperature = Annotated[float, Meta(ge=0, le=2, description="0 always picks the most likely token")]
Stops = Annotated[
    Stop | Annotated[list[Stop], Meta(max_length=MAX_STOPS)],
    Meta(description=f"At most {MAX_STOPS} texts that end the generation"),
]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Seed = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
ChoiceCount = Annotated[int, Meta(ge=1, le=MAX_CHOICES, description="Number of choices")]
Bias = Annotated[float, Meta(ge=-100, le=100)]
Biases = Annotated[
    dict[str, Bias],
    Meta(max_length=MAX_BIASES, description="By token id, -100 to 100 added to its logit"),
]
Tokens = Annotated[list[TokenId], Meta(min_length=1)]


class ContentPart(Struct):
    """A part of a message's content. Only text is supported."""

    type: Annotated[str, Meta(extra_json_schema={"enum": ["text", "refusal"]})]
    text: str | None = None
    refusal: str | None = None


class CalledFunction(Struct, forbid_unknown_fields=True):
    """A function with the arguments that the model generated."""

    name: FunctionName
    arguments: Annotated[str, Meta(description="JSON text")]


class ToolCall(Struct):
    """A function call of an earlier answer."""

    id: CallId
    function: CalledFunction
    type: Literal["function"] = "function"


class ChatMessage(Struct):
    """A message of a conversation. Content in several parts holds text only."""

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: Annotated[str, Meta(max_length=256)] | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=MAX_TOOLS)] | None = None
    tool_call_id: CallId | None = None


class Function(Struct, forbid_unknown_fields=True):
    """A function that the model may call."""

    name: FunctionName
    description: Description | None = None
    parameters: Annotated[JsonObject, Meta(description="JSON Schema of the arguments")] | None = (
        None
    )
    strict: bool | None = None


class FunctionTool(Struct, forbid_unknown_fields=True):
    type: Literal["function"]
    function: Function


class NamedFunction(Struct, forbid_unknown_fields=True):
    name: FunctionName


class NamedTool(Struct, forbid_unknown_fields=True, tag_field="type", tag="function"):
    """The tool that the model must call."""

    function: NamedFunction


class AllowedTools(Struct, forbid_unknown_fields=True):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Meta(min_length=1, max_length=MAX_TOOLS)]


class ToolsChoice(Struct, forbid_unknown_fields=True, tag_field="type", tag="allowed_tools"):
    """The tools that the model may call, as a part of `tools`."""

    allowed_tools: AllowedTools


class JsonSchema(Struct, forbid_unknown_fields=True):
    """The schema that the answer must satisfy."""

    name: FunctionName
    schema: JsonObject | None = None
    strict: bool | None = None
    description: Description | None = None


class ResponseFormat(Struct, forbid_unknown_fields=True):
    """The format of the answer, which generation enforces."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Struct, forbid_unknown_fields=True):
    include_usage: Annotated[
        bool | None, Meta(description="Whether a last chunk counts the tokens")
    ] = None
    include_obfuscation: bool | None = None


class SamplingRequest(Struct, kw_only=True):
    """Fields that chat and completions share."""

    model: ModelName
    temperature: Temperature | None = None
    top_p: Probability | None = None
    n: ChoiceCount = 1
    stop: Stops | None = None
    seed: Seed | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: Biases = {}
    stream: Annotated[
        bool,
        Meta(description="Answer with server-sent events; the last is `[DONE]` or an error"),
    ] = False
    stream_options: Annotated[
        StreamOptions | None, Meta(description="`include_usage`: a last chunk counts the tokens")
    ] = None


class ChatRequest(SamplingRequest, kw_only=True):
    """A conversation to answer."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: TokenLimit | None = None
    max_completion_tokens: TokenLimit | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    response_format: Annotated[
        ResponseFormat | None,
        Meta(description="`text`, `json_object` or `json_schema`; generation enforces it"),
    ] = None
    tools: Annotated[
        list[FunctionTool],
        Meta(
            max_length=MAX_TOOLS,
            description=f"Functions that the model may call, at most {MAX_TOOLS}",
        ),
    ] = []
    tool_choice: Literal["none", "auto", "required"] | NamedTool | ToolsChoice | None = None
    parallel_tool_calls: bool = True


class CompletionRequest(SamplingRequest, kw_only=True):
    """A text to continue as it is."""

    prompt: Annotated[
        str | Annotated[list[str | TokenId | Tokens], Meta(min_length=1)],
        Meta(description="A text, a list of texts, token ids, or a list of lists of token ids"),
    ]
    max_tokens: Annotated[
        int, Meta(ge=0, le=MAX_TOKENS, description="Maximum number of tokens to generate")
    ] = 16
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    echo: Annotated[bool, Meta(description="Whether each choice begins with its prompt")] = False
