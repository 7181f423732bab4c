"""Options of text-generating variants, and the memory that sequences may use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec

from maas.domain.errors import InvalidInput
from maas.domain.generation import Generation
from maas.domain.names import shown
from maas.domain.signature import Signature

DEFAULT_SLOTS = 32
DEFAULT_CONTEXT = 8192
"""Tokens, for models that were trained with more: the KV cache costs memory."""
DEFAULT_POOL = 16_384
"""Tokens of the KV cache that all sequences share."""
UNKNOWN_CONTEXT = 2048
BATCH_BYTES_PER_THREAD = 12_500_000_000
"""Bytes of weights times tokens that a thread computes within about half a second. A batch of
prompt tokens must be computed before a cancellation takes effect and other sequences get their next
token."""
LEAST_BATCH, LARGEST_BATCH = 32, 512
OPTIONS = {
    "slots": (1, 128),
    "context_length": (16, 1 << 20),
    "cache_tokens": (16, 1 << 24),
    "batch": (LEAST_BATCH, 4096),
    "predict_max_tokens": (1, 1 << 20),
    "stream_ms": (0, 1000),
}
"""Options of every engine: whole numbers, with their bounds."""
OWN_OPTIONS = {
    "llama_cpp": ("cache_type",),
    "openvino": (),
    "transformers": ("device", "dtype"),
    "upstream": ("engine", "model"),
}
"""Further options by engine, which checks their values when it loads."""


@dataclass(frozen=True)
class Sizes:
    """Tokens per sequence, sequences at a time, and tokens of the KV cache that they share."""

    context: int
    slots: int
    pool: int


def settled_sizes(trained: int | None, options: dict[str, int], max_batch: int) -> Sizes:
    """Sizes from the options, within the context length that the model was trained for, if its
    files state it."""
    context = min(trained or UNKNOWN_CONTEXT, options.get("context_length", DEFAULT_CONTEXT))
    slots = options.get("slots", min(max_batch, DEFAULT_SLOTS))
    pool = options.get("cache_tokens", max(DEFAULT_POOL, context))
    return Sizes(min(context, pool), slots, pool)


def batch_size(threads: int, size: int) -> int:
    """Prompt tokens per step for weights of `size` bytes."""
    batch = BATCH_BYTES_PER_THREAD * threads // max(1, size)
    return max(LEAST_BATCH, min(batch, LARGEST_BATCH))


def most_tokens(
    generation: Generation, context_length: int, openers: tuple[bytes, ...] = ()
) -> int:
    """Estimated upper bound of the tokens of a sequence, before its prompt is tokenized: a text
    rarely has more tokens than bytes. `openers` begin texts that may get a BREAK of three bytes
    (`vocabulary.py`).

    Engines correct it once the prompt is tokenized, since a template may add more, and a
    tokenizer's normalizer may expand a character: NFKC makes 18 of U+FDFA.
    """
    limit = context_length if generation.max_tokens is None else generation.max_tokens
    contents = [message.get("content") for message in generation.messages or []]
    # Called at every step while a sequence waits for room: megabytes are not encoded each time.
    if limit + sum(len(text) for text in contents if isinstance(text, str)) >= context_length:
        return context_length
    if isinstance(generation.prompt, list):
        prompt = len(generation.prompt)
    elif generation.prompt is not None:
        prompt = len(generation.prompt.encode()) + 16
    else:
        data = msgspec.json.encode([generation.messages, generation.tools])
        prompt = len(data) + 1024 + 3 * sum(data.count(opener) for opener in openers)
    return min(context_length, prompt + limit)


class Reserving(Protocol):
    """A sequence whose prompt is tokenized."""

    reserved: int
    """Most tokens of the KV cache that it needs."""
    is_cancelled: bool


S = TypeVar("S", bound=Reserving)


def fitting(ready: list[S], running: Iterable[S], memory: int) -> tuple[list[S], list[S]]:
    """Splits `ready` into the sequences that fit beside `running` in `memory` tokens, and those
    that wait.

    Keeps their order, and starts at least one if none runs. Cancelled sequences need no room.
    """
    used, count = 0, 0
    for sequence in running:
        used, count = used + sequence.reserved, count + 1
    new: list[S] = []
    waiting: list[S] = []
    for sequence in ready:
        if sequence.is_cancelled:
            new.append(sequence)
        elif waiting or (count and used + sequence.reserved > memory):
            waiting.append(sequence)
        else:
            new.append(sequence)
            used, count = used + sequence.reserved, count + 1
    return new, waiting


def check_text_signature(signature: Signature) -> None:
    """Raises InvalidInput unless the signature has one text as input and one as output."""
    for side, specs in (("input", signature.inputs), ("output", signature.outputs)):
        if len(specs) != 1 or specs[0].datatype != "BYTES" or specs[0].shape:
            raise InvalidInput(f"text generation has one {side} of datatype BYTES and shape []")


def checked_options(runtime: str, options: dict[str, Any]) -> dict[str, int]:
    """Those of `options` that every engine has. Raises InvalidInput if one of them is out of its
    bounds, and for an option that `runtime` does not have."""
    own = OWN_OPTIONS[runtime]
    for name, value in options.items():
        if name in own:
            continue
        if name not in OPTIONS:
            raise InvalidInput(
                f"there is no option {shown(name)}; expected one of {', '.join((*OPTIONS, *own))}",
                field=name,
            )
        low, high = OPTIONS[name]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InvalidInput(
                f"option {name} must be a whole number from {low} to {high}; got {shown(value)}",
                field=name,
            )
    return {name: value for name, value in options.items() if name in OPTIONS}
