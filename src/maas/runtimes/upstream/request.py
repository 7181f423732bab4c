"""A generation as a request to OpenAI's API, and that API's errors as domain errors."""

from __future__ import annotations

import re
from typing import Any

from maas.domain.errors import (
    ContextLengthExceeded,
    InvalidInput,
    MaasError,
    Overloaded,
    Unavailable,
)
from maas.domain.generation import Generation
from maas.runtimes.upstream.config import Engine

_TOO_LONG = re.compile(r"context.{0,20}(length|size|window)|maximum.{0,20}tokens", re.IGNORECASE)


def openai_body(generation: Generation, engine: Engine, model: str) -> dict[str, Any]:
    """The request body. Raises InvalidInput for fields that the engine does not support."""
    g = generation
    body: dict[str, Any] = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
    } | engine.extra_body
    for name in ("temperature", "top_p", "seed"):
        if getattr(g, name) is not None:
            body[name] = getattr(g, name)
    for name in ("presence_penalty", "frequency_penalty", "stop"):
        if getattr(g, name):
            body[name] = getattr(g, name)
    if g.max_tokens is not None:
        # Never 0: engines count the prompt with the first token.
        body["max_tokens"] = max(1, g.max_tokens)
    if g.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in g.logit_bias.items()}
    if g.response_format is not None:
        body["response_format"] = _response_format(g.response_format, engine)
    if g.messages is None:
        if g.logprobs is not None:
            raise InvalidInput(
                "logprobs: the engine upstream gives them for chats only", field="logprobs"
            )
        return body | {"prompt": g.prompt}
    body["messages"] = g.messages
    if g.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": g.logprobs}
    if g.tools:
        body |= {"tools": g.tools, "tool_choice": g.tool_choice or "auto"}
        if not g.parallel_tool_calls:
            body["parallel_tool_calls"] = False
    return body


def _response_format(response_format: dict[str, Any], engine: Engine) -> dict[str, Any]:
    if not engine.json_schema:
        raise InvalidInput(
            "response_format: this engine is not configured to enforce a schema",
            field="response_format",
        )
    if response_format.get("type") == "json_object":
        return {"type": "json_object"}
    schema = {"name": "answer", "schema": response_format.get("schema", {}), "strict": True}
    return {"type": "json_schema", "json_schema": schema}


def domain_error(status: int, error: Any, context_length: int) -> MaasError:
    """The error for an engine's answer; `error` is the field of that name, or a text."""
    fields = error if isinstance(error, dict) else {"message": str(error)}
    message = str(fields.get("message", ""))[:500]
    kind = f"{fields.get('code', '')} {fields.get('type', '')}"
    if "context" in kind or (status in (400, 413, 422) and _TOO_LONG.search(message)):
        return ContextLengthExceeded(f"the engine: {message}", context_length=context_length)
    if status == 429:
        return Overloaded(f"the engine: {message}", retry_after=1.0)
    if status in (400, 413, 415, 422):
        return InvalidInput(f"the engine refuses this request: {message}")
    # Also for 401 and 404: the operator's key or model name is wrong, not the request.
    return Unavailable(f"the engine answers with {status}: {message}", retry_after=5.0)
