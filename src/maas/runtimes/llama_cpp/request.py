"""A generation in the words of llama.cpp's server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from maas.domain.generation import Generation
from maas.runtimes.schemas.ebnf import schema_grammar
from maas.runtimes.schemas.llama_limits import TokenTexts, check_counts, held_schema
from maas.runtimes.schemas.llguidance import json_grammar
from maas.runtimes.text.prompted_tools import call_grammar, chosen_tools, told_messages

_SEEDS = 1 << 31
"""The engine takes so many; its largest number means a random one."""

_PLAIN = TokenTexts()


def request_body(
    generation: Generation, knows_tools: bool = True, seen: TokenTexts = _PLAIN
) -> dict[str, Any]:
    """What the engine is asked. Nothing in it is the caller's but what `Generation` can say.

    `knows_tools`: whether the model's chat template does; `seen`: how grammars see its tokens.
    Raises InvalidInput for what cannot be enforced.
    """
    g = generation
    grammar_of = schema_grammar if seen.lacks_blanks else _grammar
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
        body["grammar"] = grammar_of(g.response_format)
    if g.messages is None:
        body["prompt"] = g.prompt
    else:
        body |= _chat(g, knows_tools, grammar_of)
    if "grammar" in body and seen.misread:
        never = [[token, False] for token in seen.misread]
        body["logit_bias"] = body.get("logit_bias", []) + never
    return body


def _chat(
    g: Generation, knows_tools: bool, grammar_of: Callable[[dict[str, Any]], str]
) -> dict[str, Any]:
    tools, choice = chosen_tools(g)
    body: dict[str, Any] = {"messages": g.messages, "reasoning_format": "none"}
    if knows_tools and tools:
        held = [held_schema(tool, "tools") for tool in tools] if choice == "required" else tools
        body |= {"tools": held, "tool_choice": choice}
        body["parallel_tool_calls"] = g.parallel_tool_calls
    elif not knows_tools:
        body["messages"] = told_messages(g.messages or [], tools if choice != "none" else [])
        if tools and choice == "required":
            body["grammar"] = call_grammar(tools, grammar_of)
    return body


def _grammar(response_format: dict[str, Any]) -> str:
    check_counts(response_format.get("schema"), "response_format")
    return json_grammar(response_format, lambda part: held_schema(part, "response_format"))
