"""A generation as a request to OpenVINO GenAI, and refusals of what that does not support."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import openvino_genai

from maas.domain.errors import InvalidInput
from maas.domain.generation import Generation
from maas.runtimes.schemas.ebnf import schema_grammar
from maas.runtimes.text.prompted_tools import call_grammar, chosen_tools, prompted_messages

_DEFAULT_TEMPERATURE, _DEFAULT_TOP_P, _TOP_K = 0.8, 0.95, 40
"""The defaults of llama.cpp, so that answers do not depend on the engine."""
_COLDEST = 1e-4
"""Lower temperatures count as 0; the engine would divide by them."""
_FORBIDDEN = -100.0


@dataclass(frozen=True)
class EngineRequest:
    """A request that the engine supports."""

    messages: list[dict[str, Any]]
    """Empty if the generation has a prompt."""
    grammar: str | None
    """Constrains the output."""
    may_call: bool
    """Whether the model may call a tool."""
    never_ends: bool
    """Whether the caller forbids end-of-text tokens."""


def checked_request(generation: Generation, ends: frozenset[int]) -> EngineRequest:
    """The request to the engine, given its end-of-text tokens. Raises InvalidInput for everything
    that it does not support; nothing is ignored."""
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
    if choice == "none":
        tools = []
    messages = prompted_messages(g.messages or [], tools)
    return EngineRequest(messages, grammar, bool(tools), never_ends)


def generation_config(generation: Generation, request: EngineRequest, limit: int) -> Any:
    """The library's GenerationConfig for at most `limit` tokens. Raises InvalidInput."""
    g = generation
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = limit
    if request.never_ends:
        config.min_new_tokens = limit
    config.presence_penalty = g.presence_penalty
    config.frequency_penalty = g.frequency_penalty
    if not _is_greedy(g):
        config.do_sample = True
        config.temperature = _DEFAULT_TEMPERATURE if g.temperature is None else g.temperature
        config.top_p = _DEFAULT_TOP_P if g.top_p is None else max(g.top_p, _COLDEST)
        config.top_k = _TOP_K
        # The engine's own seed is a constant.
        config.rng_seed = secrets.randbits(32) if g.seed is None else g.seed % (1 << 63)
    if g.logprobs is not None:
        config.logprobs = 1
    if request.grammar is not None:
        config.structured_output_config = openvino_genai.StructuredOutputConfig(
            grammar=request.grammar
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
    """Whether `bias` forbids all end-of-text tokens, the only bias that this engine supports."""
    if not bias:
        return False
    if set(bias) == ends and all(value <= _FORBIDDEN for value in bias.values()):
        return True
    raise InvalidInput(
        "logit_bias: the engine openvino can only forbid the end of a text, the tokens "
        f"{', '.join(map(str, sorted(ends)))} at {_FORBIDDEN:g}; llama_cpp can more",
        field="logit_bias",
    )
