"""A generation in the words of llama.cpp's server."""

from __future__ import annotations

from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.generation import Generation
from maas.runtimes.json_grammar import json_grammar

_SEEDS = 1 << 31
"""The engine takes so many; its largest number means a random one."""


def request_body(generation: Generation) -> dict[str, Any]:
    """What the engine is asked. Nothing in it is the caller's but what `Generation` can say."""
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
        "stop": g.stop,
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
        body["grammar"] = json_grammar(g.response_format)
    if g.messages is None:
        body["prompt"] = g.prompt
    else:
        body |= _chat(g)
    return body


def _chat(g: Generation) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": g.messages, "reasoning_format": "none"}
    if g.tools:
        body["tools"], body["tool_choice"] = _tools(g)
        body["parallel_tool_calls"] = g.parallel_tool_calls
    return body


def _tools(g: Generation) -> tuple[list[dict[str, Any]], str]:
    """A caller who names a function gets that one only, and must get it."""
    if not isinstance(g.tool_choice, dict):
        return g.tools, g.tool_choice or "auto"
    name = g.tool_choice.get("function", {}).get("name")
    named = [tool for tool in g.tools if tool.get("function", {}).get("name") == name]
    if not named:
        raise InvalidInput(f"tool_choice: there is no function {name!r}", field="tool_choice")
    return named, "required"
