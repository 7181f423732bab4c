"""Fields of OpenAI requests: those that are ignored, those that are refused, and shared readers.

Source: openai/openai-openapi 2.3.0.
"""

from __future__ import annotations

import json
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.names import shown
from maas.protocols.bounds import MAX_TOKEN_ID
from maas.protocols.openai_requests import SamplingRequest

IGNORED = frozenset({
    "user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "prediction",
})  # fmt: skip
"""Labels and hints: the answer is the same without them."""
REFUSED = {
    "functions": "use tools",
    "function_call": "use tool_choice",
    "chat_template": "the model's own template is used",
    "chat_template_kwargs": "the model's own template is used",
    "audio": "only text is generated",
    "web_search_options": "there is no web search",
    "suffix": "text is generated without a given end",
    "reasoning_effort": "the amount of reasoning cannot be set",
    "verbosity": "state the length of the answer in the prompt",
    "top_k": "use top_p",
}
"""By name, the reason or the field to use instead."""
_ONLY_VALUE: dict[str, Any] = {"store": False, "modalities": ["text"], "best_of": 1}
"""Fields that may have one value, which is the protocol's default."""


def check_fields(body: dict[str, Any], supported: tuple[str, ...]) -> None:
    """Raises InvalidInput for a field that is not supported and might change the answer."""
    for name, value in body.items():
        if name in supported or name in IGNORED:
            continue
        if value is None and (name in REFUSED or name in _ONLY_VALUE):
            continue
        if name in _ONLY_VALUE:
            _check_only_value(name, value)
            continue
        reason = REFUSED.get(name)
        message = f"{name} is not supported here: {reason}"
        if reason is None:
            message = f"unknown field {shown(name)}"
        raise InvalidInput(message, field=name[:200])


def _check_only_value(name: str, value: Any) -> None:
    supported = _ONLY_VALUE[name]
    if type(value) is not type(supported) or value != supported:
        raise InvalidInput(
            f"{name}: only {json.dumps(supported)} is supported here, got {shown(value)}",
            field=name,
        )


def without_nulls(body: dict[str, Any]) -> dict[str, Any]:
    """The fields that are not null; in this protocol null means the same as a missing field."""
    return {name: value for name, value in body.items() if value is not None}


def includes_usage(request: SamplingRequest) -> bool:
    """Whether the stream ends with the token counts.

    Raises InvalidInput for stream options without a stream.
    """
    if request.stream_options is None:
        return False
    if not request.stream:
        raise InvalidInput("stream_options needs stream: true", field="stream_options")
    return bool(request.stream_options.include_usage)


def stops_of(request: SamplingRequest) -> list[str]:
    """The texts that end the generation."""
    return [request.stop] if isinstance(request.stop, str) else list(request.stop or ())


def biases_of(request: SamplingRequest) -> dict[int, float]:
    """By token id; raises InvalidInput for a name that is no token id."""
    biases = {}
    for name, bias in request.logit_bias.items():
        is_number = name.isascii() and name.isdigit() and len(name) < 11
        if not is_number or int(name) > MAX_TOKEN_ID:
            raise InvalidInput(
                f"logit_bias: expected token ids as names, got {shown(name)}", field="logit_bias"
            )
        biases[int(name)] = bias
    return biases
