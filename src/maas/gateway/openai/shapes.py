"""The OpenAI protocol's requests as types with bounds, its errors, and what is not taken.

Source: openai/openai-openapi 2.3.0. Fields that the protocol has and that are not here change the
answer, so they are refused; those that change nothing are named in IGNORED.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from maas.domain.errors import ContextLengthExceeded, InvalidInput, MaasError, Overloaded
from maas.domain.names import shown
from maas.gateway.http.request import JSON

MAX_MESSAGES = 4096
MAX_TOOLS = 128
MAX_CHOICES = 16
MAX_STOPS = 4
MAX_BIASES = 1024
MAX_TOKENS = 1 << 24
MAX_LOGPROBS = 20
MAX_PROMPTS = 64
_MAX_TOKEN_ID = (1 << 31) - 1

ModelName = Annotated[str, Meta(min_length=1, max_length=256)]
Stop = Annotated[str, Meta(min_length=1, max_length=1024)]
Stops = Stop | Annotated[list[Stop], Meta(max_length=MAX_STOPS)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Seed = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Choices = Annotated[int, Meta(ge=1, le=MAX_CHOICES)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
Biases = Annotated[dict[str, Bias], Meta(max_length=MAX_BIASES)]
TokenId = Annotated[int, Meta(ge=0, le=_MAX_TOKEN_ID)]
FunctionName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
CallId = Annotated[str, Meta(min_length=1, max_length=256)]
Description = Annotated[str, Meta(max_length=16_384)]


class ContentPart(Struct):
    type: str
    text: str | None = None
    refusal: str | None = None


class CalledFunction(Struct, forbid_unknown_fields=True):
    name: FunctionName
    arguments: str


class ToolCall(Struct):
    id: CallId
    function: CalledFunction
    type: Literal["function"] = "function"


class ChatMessage(Struct):
    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: Annotated[str, Meta(max_length=256)] | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=MAX_TOOLS)] | None = None
    tool_call_id: CallId | None = None


class Function(Struct, forbid_unknown_fields=True):
    name: FunctionName
    description: Description | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(Struct, forbid_unknown_fields=True):
    type: Literal["function"]
    function: Function


class NamedFunction(Struct, forbid_unknown_fields=True):
    name: FunctionName


class NamedTool(Struct, forbid_unknown_fields=True, tag_field="type", tag="function"):
    function: NamedFunction


class AllowedTools(Struct, forbid_unknown_fields=True):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Meta(min_length=1, max_length=MAX_TOOLS)]


class ToolsChoice(Struct, forbid_unknown_fields=True, tag_field="type", tag="allowed_tools"):
    allowed_tools: AllowedTools


class JsonSchema(Struct, forbid_unknown_fields=True):
    name: FunctionName
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: Description | None = None


class ResponseFormat(Struct, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class _Sampling(Struct, kw_only=True):
    """What chat and completions share."""

    model: ModelName
    temperature: Temperature | None = None
    top_p: Share | None = None
    n: Choices = 1
    stop: Stops | None = None
    seed: Seed | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: Biases = {}
    stream: bool = False
    stream_options: StreamOptions | None = None


class ChatRequest(_Sampling, kw_only=True):
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[FunctionTool], Meta(max_length=MAX_TOOLS)] = []
    tool_choice: Literal["none", "auto", "required"] | NamedTool | ToolsChoice | None = None
    parallel_tool_calls: bool = True


class CompletionRequest(_Sampling, kw_only=True):
    prompt: (
        str
        | Annotated[
            list[str | TokenId | Annotated[list[TokenId], Meta(min_length=1)]], Meta(min_length=1)
        ]
    )
    max_tokens: Annotated[int, Meta(ge=0, le=MAX_TOKENS)] = 16
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    echo: bool = False


IGNORED = frozenset({
    "user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "prediction",
})  # fmt: skip
"""Who asks, what it is filed under, and hints: the answer is the same without them."""
REFUSED = {
    "functions": "use tools",
    "function_call": "use tool_choice",
    "chat_template": "the model's own template is used",
    "chat_template_kwargs": "the model's own template is used",
    "audio": "text is all that is written here",
    "web_search_options": "there is no web search",
    "suffix": "nothing is written before a given end",
    "reasoning_effort": "how much a model reasons is not to be set here",
    "verbosity": "say in the prompt how long the answer shall be",
    "top_k": "use top_p",
}
_ONLY: dict[str, Any] = {"store": False, "modalities": ["text"], "best_of": 1}
"""Fields that may be said, with the one value that says nothing new."""


def check_fields(body: dict[str, Any], known: tuple[str, ...]) -> None:
    """Raises InvalidInput for a field that is not known and might change the answer."""
    for name, value in body.items():
        if name in known or name in IGNORED:
            continue
        if value is None and (name in REFUSED or name in _ONLY):
            continue
        if name in _ONLY:
            if type(value) is not type(_ONLY[name]) or value != _ONLY[name]:
                raise InvalidInput(
                    f"{name}: only {json.dumps(_ONLY[name])} is supported here, got {shown(value)}",
                    field=name,
                )
            continue
        why = REFUSED.get(name)
        said = f"{name} is not supported here: {why}" if why else f"unknown field {shown(name)}"
        raise InvalidInput(said, field=name[:200])


def said_in(body: dict[str, Any]) -> dict[str, Any]:
    """Without what is null, which in this protocol says as little as what is left out."""
    return {name: value for name, value in body.items() if value is not None}


def check_stream_options(asked: _Sampling) -> bool:
    """Whether usage ends the stream; raises InvalidInput for options without a stream."""
    if asked.stream_options is None:
        return False
    if not asked.stream:
        raise InvalidInput("stream_options needs stream: true", field="stream_options")
    return bool(asked.stream_options.include_usage)


def stops_of(asked: _Sampling) -> list[str]:
    return [asked.stop] if isinstance(asked.stop, str) else list(asked.stop or ())


def biases_of(asked: _Sampling) -> dict[int, float]:
    """By token id; raises InvalidInput for names that are none."""
    out = {}
    for name, bias in asked.logit_bias.items():
        if not (
            name.isascii() and name.isdigit() and len(name) < 11 and int(name) <= _MAX_TOKEN_ID
        ):
            raise InvalidInput(
                f"logit_bias: expected token ids as names, got {shown(name)}", field="logit_bias"
            )
        out[int(name)] = bias
    return out


# -- errors -----------------------------------------------------------------------------------

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {"unauthenticated": "invalid_api_key", "overloaded": "rate_limit_exceeded"}


def status_of(error: MaasError) -> int:
    """As the protocol's clients expect: what is wrong with a request is a 400, and 429 says that
    others are being served."""
    if isinstance(error, InvalidInput):
        return 400
    return 429 if isinstance(error, Overloaded) else error.status


def error_body(error: MaasError) -> dict[str, Any]:
    status = status_of(error)
    usual = "server_error" if status >= 500 else "invalid_request_error"
    field = error.details.get("field")
    if field is None and isinstance(error, ContextLengthExceeded):
        field = "messages"
    return {
        "error": {
            "message": error.message,
            "type": _TYPES.get(status, usual),
            "param": field,
            "code": _CODES.get(error.code, error.code),
        }
    }


def openai_shape(error: MaasError, request_id: str) -> tuple[int, bytes, bytes]:
    """Every one of the four keys is there, as clients rely on."""
    return status_of(error), JSON, json.dumps(error_body(error)).encode()
