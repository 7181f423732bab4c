"""A generation in the words of OpenVINO GenAI, and what that cannot say."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import openvino_genai

from maas.domain.errors import InvalidInput
from maas.domain.generation import Generation
from maas.runtimes.schemas.ebnf import schema_grammar
from maas.runtimes.text.prompted_tools import call_grammar, chosen_tools, told_messages

_DEFAULT_TEMPERATURE, _DEFAULT_TOP_P, _TOP_K = 0.8, 0.95, 40
"""Those of llama.cpp, so that the choice of an engine does not change how answers sound."""
_COLDEST = 1e-4
"""Temperatures below are as good as 0, and the engine would divide by them."""
_FORBIDDEN = -100.0


@dataclass(frozen=True)
class EngineRequest:
    """What is wanted, after it was found that the engine can do it."""

    messages: list[dict[str, Any]]
    """None at all if the generation has a prompt."""
    grammar: str | None
    """Of what must be written."""
    reads_calls: bool
    never_ends: bool
    """The caller forbids the tokens that end a text."""


def asked(generation: Generation, ends: frozenset[int]) -> EngineRequest:
    """`ends` are the tokens that end a text. Raises InvalidInput for what this engine cannot do:
    nothing is left out in silence."""
    g = generation
    never_ends = _forbids_the_end(g.logit_bias, ends)
    if g.logprobs is not None and (g.logprobs > 0 or not _is_greedy(g)):
        raise InvalidInput(
            "logprobs: the engine openvino gives those of the chosen tokens at temperature 0, and "
            "no others; llama_cpp gives more",
            field="logprobs",
        )
    tools, choice = chosen_tools(g)
    grammar = schema_grammar(g.response_format) if g.response_format is not None else None
    if tools and choice == "required":
        grammar = call_grammar(tools, schema_grammar)
    told = told_messages(g.messages or [], tools if choice != "none" else [])
    return EngineRequest(told, grammar, bool(tools) and choice != "none", never_ends)


def configured(generation: Generation, wanted: EngineRequest, limit: int) -> Any:
    """The engine's configuration for a sequence of at most `limit` tokens; raises InvalidInput."""
    g = generation
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = limit
    if wanted.never_ends:
        config.min_new_tokens = limit
    config.presence_penalty = g.presence_penalty
    config.frequency_penalty = g.frequency_penalty
    if not _is_greedy(g):
        config.do_sample = True
        config.temperature = _DEFAULT_TEMPERATURE if g.temperature is None else g.temperature
        config.top_p = _DEFAULT_TOP_P if g.top_p is None else max(g.top_p, _COLDEST)
        config.top_k = _TOP_K
        # Without a seed every answer would begin at the engine's own, which is always the same.
        config.rng_seed = secrets.randbits(32) if g.seed is None else g.seed % (1 << 63)
    if g.logprobs is not None:
        config.logprobs = 1
    if wanted.grammar is not None:
        config.structured_output_config = openvino_genai.StructuredOutputConfig(
            grammar=wanted.grammar
        )
    try:
        config.validate()
    except RuntimeError as wrong:
        reason = str(wrong).partition("\n")[2].strip() or str(wrong)
        raise InvalidInput(f"the engine refuses this request: {reason[:300]}") from None
    return config


def _is_greedy(generation: Generation) -> bool:
    return generation.temperature is not None and generation.temperature < _COLDEST


def _forbids_the_end(bias: dict[int, float], ends: frozenset[int]) -> bool:
    """The one bias that this engine can be told: no token that ends a text."""
    if not bias:
        return False
    if set(bias) == ends and all(value <= _FORBIDDEN for value in bias.values()):
        return True
    raise InvalidInput(
        "logit_bias: the engine openvino can only forbid the end of a text, the tokens "
        f"{', '.join(map(str, sorted(ends)))} at {_FORBIDDEN:g}; llama_cpp can more",
        field="logit_bias",
    )
