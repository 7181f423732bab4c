"""A generation in the words of llama.cpp's server."""

from __future__ import annotations

import re
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.generation import Generation
from maas.domain.names import shown
from maas.runtimes.json_grammar import json_grammar
from maas.runtimes.plain_tools import call_grammar, chosen_tools, told_messages

_ESCAPED = re.compile(
    r'["\x00-\x1f]|\\(?:[\\nrtfv]|x(?:22|5c|[01].)|u00(?:22|5c|[01].))', re.IGNORECASE
)
"""In a pattern: what stands for a character that JSON writes with a backslash."""
_SEEDS = 1 << 31
"""The engine takes so many; its largest number means a random one."""


def request_body(generation: Generation, knows_tools: bool = True) -> dict[str, Any]:
    """What the engine is asked. Nothing in it is the caller's but what `Generation` can say.

    `knows_tools`: whether the model's chat template does. Raises InvalidInput for what cannot be
    enforced.
    """
    g = generation
    body: dict[str, Any] = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "timings_per_token": True,
        "return_progress": True,
        # Work that an earlier prompt left is summed up in another order than work done anew.
        "cache_prompt": g.seed is None and g.temperature != 0,
        "n_predict": -1 if g.max_tokens is None else g.max_tokens,
        "presence_penalty": g.presence_penalty,
        "frequency_penalty": g.frequency_penalty,
    }
    if g.temperature is not None:
        body["temperature"] = g.temperature
    if g.top_p is not None:
        body["top_p"] = g.top_p
    if g.seed is not None:
        body["seed"] = g.seed % _SEEDS
    if g.logit_bias:
        body["logit_bias"] = [[token, bias] for token, bias in g.logit_bias.items()]
    if g.logprobs is not None:
        # The engine gives none at all for 0.
        body["n_probs"] = max(1, g.logprobs)
    if g.response_format is not None:
        _check_patterns(g.response_format.get("schema"), "response_format")
        body["grammar"] = json_grammar(g.response_format)
    if g.messages is None:
        body["prompt"] = g.prompt
    else:
        body |= _chat(g, knows_tools)
    return body


def _chat(g: Generation, knows_tools: bool) -> dict[str, Any]:
    tools, choice = chosen_tools(g)
    if choice == "required":
        _check_patterns(tools, "tools")
    body: dict[str, Any] = {"messages": g.messages, "reasoning_format": "none"}
    if knows_tools and tools:
        body |= {"tools": tools, "tool_choice": choice}
        body["parallel_tool_calls"] = g.parallel_tool_calls
    elif not knows_tools:
        body["messages"] = told_messages(g.messages or [], tools if choice != "none" else [])
        if tools and choice == "required":
            body["grammar"] = call_grammar(tools, json_grammar)
    return body


def _check_patterns(schema: Any, field: str) -> None:
    """The engine ends a text behind the first character of it that JSON escapes, whatever the
    pattern wants to follow. Raises InvalidInput."""
    if isinstance(schema, list):
        for part in schema:
            _check_patterns(part, field)
    elif isinstance(schema, dict):
        pattern = schema.get("pattern")
        if isinstance(pattern, str) and _ESCAPED.search(pattern):
            raise InvalidInput(
                f"{field}: the engine llama_cpp does not hold pattern {shown(pattern)}, which names"
                " a character that JSON escapes; transformers does",
                field=field,
            )
        for part in schema.values():
            _check_patterns(part, field)
