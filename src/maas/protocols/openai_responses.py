"""Answers of OpenAI's protocols. Source: openai/openai-openapi 2.3.0."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from maas.protocols.bounds import Count, Index, JsonObject, ModelName, Timestamp
from maas.protocols.openai_requests import ToolCall

FinishReason = Annotated[str, Meta(extra_json_schema={"enum": ["stop", "length", "tool_calls"]})]


class PromptTokensDetails(Struct):
    cached_tokens: Count


class TextUsage(Struct):
    """Tokens as counted by the engine."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: PromptTokensDetails


class AnswerHead(Struct, kw_only=True):
    """Fields that all chunks of one answer share."""

    id: Annotated[str, Meta(description="The same in all chunks of one answer")]
    object: str
    created: Timestamp
    model: ModelName
    system_fingerprint: Annotated[
        str, Meta(description="Version and variant that generated the answer")
    ]


class AnswerMessage(Struct):
    """The model's message; without text, `content` is null if tools are called."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChoice(Struct):
    index: Index
    message: AnswerMessage
    logprobs: JsonObject | None
    finish_reason: FinishReason


class ChatCompletion(AnswerHead, kw_only=True):
    """A generated answer."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: TextUsage


class CompletionChoice(Struct):
    index: Index
    text: str
    logprobs: JsonObject | None
    finish_reason: FinishReason


class Completion(AnswerHead, kw_only=True):
    """Generated continuations."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: TextUsage


class OpenAIModel(Struct):
    """A deployment."""

    id: ModelName
    object: Literal["model"]
    created: Annotated[
        Timestamp, Meta(description="Publication of its newest version, seconds since the epoch")
    ]
    owned_by: str


class OpenAIModelList(Struct):
    object: Literal["list"]
    data: list[OpenAIModel]


class ErrorDetails(Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(Struct):
    """An error in the protocol's own shape. All four keys are present; clients rely on them."""

    error: ErrorDetails
