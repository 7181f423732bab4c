"""What engines that write text have in common: options of a variant, and what they may hold."""

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
"""Tokens, of models that could do more: what they remember costs memory."""
DEFAULT_POOL = 16_384
"""Tokens that all sequences share."""
UNKNOWN_CONTEXT = 2048
BATCH_BYTES_PER_THREAD = 12_500_000_000
"""Bytes of weights times tokens that a thread computes within about half a second. A batch of a
prompt is what must end before a cancellation counts and others get their next token."""
LEAST_BATCH, LARGEST_BATCH = 32, 512
OPTIONS = {
    "slots": (1, 128),
    "context_length": (16, 1 << 20),
    "cache_tokens": (16, 1 << 24),
    "batch": (LEAST_BATCH, 4096),
    "predict_max_tokens": (1, 1 << 20),
    "stream_ms": (0, 1000),
}
"""What a variant may say about how it is loaded, each a whole number with these bounds."""
OWN_OPTIONS = {
    "llama_cpp": ("cache_type",),
    "openvino": (),
    "transformers": ("device", "dtype"),
    "upstream": ("engine", "model"),
}
"""What those of one runtime may say besides; it looks at them itself when it loads."""


@dataclass(frozen=True)
class Sizes:
    context: int
    slots: int
    pool: int


def settled_sizes(trained: int | None, options: dict[str, int], max_batch: int) -> Sizes:
    """`trained`: tokens that the model was trained for, if it says."""
    context = min(trained or UNKNOWN_CONTEXT, options.get("context_length", DEFAULT_CONTEXT))
    slots = options.get("slots", min(max_batch, DEFAULT_SLOTS))
    pool = options.get("cache_tokens", max(DEFAULT_POOL, context))
    return Sizes(min(context, pool), slots, pool)


def batch_size(threads: int, size: int) -> int:
    """Tokens of a prompt that are read at once, for weights of `size` bytes."""
    batch = BATCH_BYTES_PER_THREAD * threads // max(1, size)
    return max(LEAST_BATCH, min(batch, LARGEST_BATCH))


def most_tokens(
    generation: Generation, context_length: int, openers: tuple[bytes, ...] = ()
) -> int:
    """What a sequence probably needs of the memory that all share at most, before its prompt is
    read: a text rarely has more tokens than bytes. `openers` begin what may get a BREAK of three
    bytes (`vocabulary.py`).

    An engine looks again when it has read the prompt, for a template may say more, and a
    tokenizer's normalizer may make many characters of one: NFKC makes 18 of U+FDFA.
    """
    written = context_length if generation.max_tokens is None else generation.max_tokens
    contents = [m.get("content") for m in generation.messages or []]
    # Asked at every step while one waits for room: megabytes are not encoded each time.
    if written + sum(len(text) for text in contents if isinstance(text, str)) >= context_length:
        return context_length
    if isinstance(generation.prompt, list):
        prompt = len(generation.prompt)
    elif generation.prompt is not None:
        prompt = len(generation.prompt.encode()) + 16
    else:
        said = msgspec.json.encode([generation.messages, generation.tools])
        prompt = len(said) + 1024 + 3 * sum(said.count(opener) for opener in openers)
    return min(context_length, prompt + written)


class Reserving(Protocol):
    """A sequence whose prompt was read."""

    reserved: int
    """Tokens that it needs at most."""
    is_cancelled: bool


S = TypeVar("S", bound=Reserving)


def fitting(ready: list[S], running: Iterable[S], memory: int) -> tuple[list[S], list[S]]:
    """Those of `ready` that have room beside `running` in `memory` tokens, and those that wait.

    In their order, and one at least if none runs. Who was cancelled needs no room.
    """
    taken, count = 0, 0
    for sequence in running:
        taken, count = taken + sequence.reserved, count + 1
    new: list[S] = []
    waiting: list[S] = []
    for sequence in ready:
        if sequence.is_cancelled:
            new.append(sequence)
        elif waiting or (count and taken + sequence.reserved > memory):
            waiting.append(sequence)
        else:
            new.append(sequence)
            taken, count = taken + sequence.reserved, count + 1
    return new, waiting


def check_text_signature(signature: Signature) -> None:
    for side, specs in (("input", signature.inputs), ("output", signature.outputs)):
        if len(specs) != 1 or specs[0].datatype != "BYTES" or specs[0].shape:
            raise InvalidInput(f"text generation has one {side} of datatype BYTES and shape []")


def checked_options(runtime: str, options: dict[str, Any]) -> dict[str, int]:
    """The options that all have. Raises InvalidInput for a value that one of them cannot have,
    and for an option that `runtime` does not know."""
    own = OWN_OPTIONS[runtime]
    for name, value in options.items():
        if name in own:
            continue
        if name not in OPTIONS:
            raise InvalidInput(
                f"there is no option {shown(name)}; known are {', '.join((*OPTIONS, *own))}",
                field=name,
            )
        low, high = OPTIONS[name]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InvalidInput(
                f"option {name} must be a whole number from {low} to {high}; got {shown(value)}",
                field=name,
            )
    return {name: value for name, value in options.items() if name in OPTIONS}
