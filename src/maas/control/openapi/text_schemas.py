"""Schemas of the doors for text under `/v1`: those of OpenAI and of Anthropic, as far as they are
taken. What is not described here is refused, unless it changes nothing."""

from __future__ import annotations

from typing import Any

from maas.control.openapi.api_schemas import (
    ANYTHING,
    FLAG,
    NAME,
    TEXT,
    TIME,
    Schema,
    many,
    maybe,
    ref,
    says,
    thing,
    whole,
)

_TOKENS = whole(1, 1 << 24, "Most tokens to write")
_ID = says(TEXT, "The same in all parts of one answer")


def _between(low: float, high: float, description: str = "") -> Schema:
    schema: Schema = {"type": "number", "minimum": low, "maximum": high}
    return says(schema, description) if description else schema


def _one_of(*names: str) -> Schema:
    return {"type": "string", "enum": list(names)}


def _asked(description: str, required: tuple[str, ...], **properties: Schema) -> Schema:
    optional = tuple(name for name in properties if name not in required)
    return thing(description, optional, **properties)


_TEXTS: Schema = {"anyOf": [TEXT, many(ANYTHING)]}
_SAMPLING: dict[str, Schema] = {
    "model": says(NAME, "The deployment"),
    "temperature": _between(0, 2, "0 always takes the likeliest token"),
    "top_p": _between(0, 1),
    "n": whole(1, 16, "Choices"),
    "stop": {"anyOf": [TEXT, many(TEXT)], "description": "At most 4 texts that end it"},
    "seed": {"type": "integer", "minimum": -(1 << 63), "maximum": (1 << 63) - 1},
    "presence_penalty": _between(-2, 2),
    "frequency_penalty": _between(-2, 2),
    "logit_bias": says(ANYTHING, "Token id to what is added to its logit, -100 to 100"),
    "stream": says(FLAG, "Answer with server-sent events, the last `[DONE]` or an error"),
    "stream_options": says(ANYTHING, "`include_usage`: a last chunk with the tokens"),
}
_CHOICE: dict[str, Schema] = {
    "index": whole(0, 1 << 16),
    "logprobs": maybe(ANYTHING),
    "finish_reason": _one_of("stop", "length", "tool_calls"),
}
_ANSWER: dict[str, Schema] = {
    "id": _ID,
    "created": TIME,
    "model": NAME,
    "system_fingerprint": says(TEXT, "Version and variant that wrote it"),
}
_ANTHROPIC_ASKED: dict[str, Schema] = {
    "model": says(NAME, "The deployment"),
    "messages": many(ref("AnthropicMessage")),
    "system": _TEXTS,
    "tools": many(ANYTHING),
    "tool_choice": ANYTHING,
}

TEXT_SCHEMAS: dict[str, Schema] = {
    "ChatMessage": _asked(
        "A message; content of several parts may hold text only",
        ("role",),
        role=_one_of("developer", "system", "user", "assistant", "tool"),
        content=maybe(_TEXTS),
        name=TEXT,
        tool_calls=many(ANYTHING),
        tool_call_id=TEXT,
    ),
    "ChatRequest": _asked(
        "What shall be answered, and how",
        ("model", "messages"),
        messages=many(ref("ChatMessage")),
        max_tokens=_TOKENS,
        max_completion_tokens=_TOKENS,
        logprobs=FLAG,
        top_logprobs=whole(0, 20),
        response_format=says(ANYTHING, "`text`, `json_object`, or `json_schema`; enforced"),
        tools=says(many(ANYTHING), "Functions that may be called, at most 128"),
        tool_choice={"anyOf": [_one_of("none", "auto", "required"), ANYTHING]},
        parallel_tool_calls=FLAG,
        **_SAMPLING,
    ),
    "ChatCompletion": thing(
        "What was written",
        object=_one_of("chat.completion"),
        choices=many(
            thing("", **_CHOICE, message=thing(
                "", ("tool_calls",), role=_one_of("assistant"), content=maybe(TEXT),
                refusal=maybe(TEXT), tool_calls=many(ANYTHING),
            ))
        ),
        usage=ref("TextUsage"),
        **_ANSWER,
    ),
    "CompletionRequest": _asked(
        "What shall be continued as it is",
        ("model", "prompt"),
        prompt={"anyOf": [TEXT, many({})], "description": "A text, texts, tokens, or lists of "
                "tokens"},
        max_tokens=whole(0, 1 << 24, "16 unless said"),
        logprobs=whole(0, 5),
        echo=FLAG,
        **_SAMPLING,
    ),
    "Completion": thing(
        "What was written",
        object=_one_of("text_completion"),
        choices=many(thing("", **_CHOICE, text=TEXT)),
        usage=ref("TextUsage"),
        **_ANSWER,
    ),
    "TextUsage": thing(
        "Tokens, as the engine counted",
        prompt_tokens=whole(),
        completion_tokens=whole(),
        total_tokens=whole(),
        prompt_tokens_details=thing("", cached_tokens=whole()),
    ),
    "OpenAIModel": thing(
        "A deployment", id=NAME, object=_one_of("model"), created=TIME, owned_by=TEXT
    ),
    "OpenAIModelList": thing("", object=_one_of("list"), data=many(ref("OpenAIModel"))),
    "OpenAIError": thing(
        "The protocol's own shape of an error",
        error=thing("", message=TEXT, type=TEXT, param=maybe(TEXT), code=maybe(TEXT)),
    ),
    "AnthropicMessage": thing(
        "A message; blocks may be text, tool_use and tool_result",
        role=_one_of("user", "assistant"),
        content=_TEXTS,
    ),
    "MessagesRequest": _asked(
        "What shall be answered, and how",
        ("model", "messages", "max_tokens"),
        max_tokens=_TOKENS,
        stop_sequences=many(TEXT),
        stream=says(FLAG, "Answer with named server-sent events"),
        temperature=_between(0, 1),
        top_p=_between(0, 1),
        **_ANTHROPIC_ASKED,
    ),
    "MessagesAnswer": thing(
        "What was written",
        id=TEXT,
        type=_one_of("message"),
        role=_one_of("assistant"),
        model=NAME,
        content=many(ANYTHING),
        stop_reason=_one_of("end_turn", "max_tokens", "stop_sequence", "tool_use"),
        stop_sequence=maybe(TEXT),
        usage=thing("", input_tokens=whole(), output_tokens=whole(),
                    cache_creation_input_tokens=whole(), cache_read_input_tokens=whole()),
    ),
    "CountRequest": _asked("What shall be counted", ("model", "messages"), **_ANTHROPIC_ASKED),
    "CountedTokens": thing("", input_tokens=whole()),
    "AnthropicError": thing(
        "The protocol's own shape of an error",
        ("request_id",),
        type=_one_of("error"),
        error=thing("", type=TEXT, message=TEXT),
        request_id=TEXT,
    ),
}  # fmt: skip

TEXT_ANSWERS: dict[str, tuple[tuple[int, str], ...]] = {
    "openai_models": ((200, "OpenAIModelList"),),
    "openai_model": ((200, "OpenAIModel"),),
    "openai_chat": ((200, "ChatCompletion"),),
    "openai_completions": ((200, "Completion"),),
    "anthropic_messages": ((200, "MessagesAnswer"),),
    "anthropic_count": ((200, "CountedTokens"),),
}
STREAMED = frozenset({"openai_chat", "openai_completions", "anthropic_messages"})
OPENAI, ANTHROPIC = "OpenAI", "Anthropic"
TEXT_OPERATIONS: tuple[tuple[str, str, str, str, str, str, str], ...] = (
    ("/v1/models", "get", "openai_models", OPENAI, "call",
     "The deployments that `/v1` can call", ""),
    ("/v1/models/{model}", "get", "openai_model", OPENAI, "call", "One of them", ""),
    ("/v1/chat/completions", "post", "openai_chat", OPENAI, "call", "Chat", "ChatRequest"),
    ("/v1/completions", "post", "openai_completions", OPENAI, "call", "Continue a text",
     "CompletionRequest"),
    ("/v1/messages", "post", "anthropic_messages", ANTHROPIC, "call", "Chat", "MessagesRequest"),
    ("/v1/messages/count_tokens", "post", "anthropic_count", ANTHROPIC, "call",
     "How many tokens a prompt has", "CountRequest"),
)  # fmt: skip
"""Path, method, operation, tag, scope, summary, schema of the body."""


def stream_content() -> dict[str, Any]:
    return {"text/event-stream": {"schema": TEXT}}
