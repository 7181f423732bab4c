"""A generation as a request to llama.cpp's server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from maas.domain.generation import Generation
from maas.runtimes.schemas.ebnf import schema_grammar
from maas.runtimes.schemas.llama_limits import TokenTexts, check_counts, enforceable
from maas.runtimes.schemas.llguidance import json_grammar
from maas.runtimes.text.prompted_tools import call_grammar, chosen_tools, prompted_messages

_SEEDS = 1 << 31
"""Number of seeds that the engine distinguishes; its largest value means a random seed."""

_NO_TEXTS = TokenTexts()


def request_body(
    generation: Generation, template_has_tools: bool = True, texts: TokenTexts = _NO_TEXTS
) -> dict[str, Any]:
    """The request body. It contains nothing of the caller's except fields of `Generation`.

    `template_has_tools`: whether the model's chat template supports tools; `texts`: the texts that
    grammars match its tokens with. Raises InvalidInput for a format that cannot be enforced.
    """
    g = generation
    grammar_of = schema_grammar if texts.lacks_blanks else _grammar
    body: dict[str, Any] = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "timings_per_token": True,
        "return_progress": True,
        # Cached and recomputed keys and values differ in rounding, which changes seeded answers.
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
        # 0 disables logprobs.
        body["n_probs"] = max(1, g.logprobs)
    if g.response_format is not None:
        body["grammar"] = grammar_of(g.response_format)
    if g.messages is None:
        body["prompt"] = g.prompt
    else:
        body |= _chat(g, template_has_tools, grammar_of)
    if "grammar" in body and texts.misread:
        never = [[token, False] for token in texts.misread]
        body["logit_bias"] = body.get("logit_bias", []) + never
    return body


def _chat(
    g: Generation, template_has_tools: bool, grammar_of: Callable[[dict[str, Any]], str]
) -> dict[str, Any]:
    tools, choice = chosen_tools(g)
    body: dict[str, Any] = {"messages": g.messages, "reasoning_format": "none"}
    if template_has_tools and tools:
        if choice == "required":
            tools = [enforceable(tool, "tools") for tool in tools]
        body |= {"tools": tools, "tool_choice": choice}
        body["parallel_tool_calls"] = g.parallel_tool_calls
    elif not template_has_tools:
        body["messages"] = prompted_messages(g.messages or [], tools if choice != "none" else [])
        if tools and choice == "required":
            body["grammar"] = call_grammar(tools, grammar_of)
    return body


def _grammar(response_format: dict[str, Any]) -> str:
    check_counts(response_format.get("schema"), "response_format")
    return json_grammar(response_format, lambda part: enforceable(part, "response_format"))
