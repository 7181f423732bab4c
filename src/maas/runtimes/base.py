"""What a runtime is: the code that loads and runs one kind of model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from maas.domain.errors import MaasError
from maas.domain.generation import Ending, Generation, Piece
from maas.domain.signature import Signature

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class LoadRequest:
    """Files by name, already checked against their SHA-256, and how to load them."""

    files: dict[str, bytes]
    signature: Signature
    threads: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)
    """Where the files lie, for runtimes whose library opens them itself (`catalog.FROM_PATHS`);
    `files` is empty for those. Nobody but this user can change them between check and use."""
    max_batch: int = 64
    """Most rows, or sequences, that the model gets at once."""
    engines_file: Path | None = None
    """Where the operator names engines of others, for the runtime `upstream`."""


class Runtime(Protocol):
    """One loaded model. A runtime is used by one thread at a time.

    Three attributes are there only where they say something else than usual:
    `takes_bytes = True`: BYTES inputs are encoded images or sound and come as `bytes`, not `str`.
    `last_progress`: when a predict that may take many seconds last got on, seconds on the
    monotonic clock; without it such a replica is taken for stuck.
    `silent_seconds`: how long it may seem stuck, besides what any model may.
    """

    def load(self, request: LoadRequest) -> None:
        """Raises InvalidInput if the files are not a model of this kind or do not match the
        signature."""

    def predict(self, inputs: Arrays) -> Arrays:
        """Answers for rows `[n, …]` of every input of the signature, in its dtypes.

        Returns every output of the signature as `[n, …]`. Raises InferenceFailed if the model
        cannot answer for these inputs.
        """


def takes_bytes(runtime: Runtime) -> bool:
    return bool(getattr(runtime, "takes_bytes", False))


def last_progress(runtime: Runtime) -> float:
    return float(getattr(runtime, "last_progress", 0.0))


def silent_seconds(runtime: Runtime) -> float:
    return float(getattr(runtime, "silent_seconds", 0.0))


Said = Piece | Ending | MaasError
Sink = Callable[[int, Said], None]
"""Told, in any thread, what a sequence wrote; an ending or an error is the last it is told. A
piece may be empty: the engine has got on with a long prompt."""


class Generator(Protocol):
    """A model that writes text step by step, many sequences at a time.

    Engines that step all their sequences at once have an attribute `after_step`, which they call in
    their own thread when every sink of a step was called (`hear_steps`). Those that hold the
    interpreter's lock while they step let whoever has an event loop take their turns there
    (`take_turns`). Those that can keep what a sequence wrote ask an attribute `is_time` whether to
    tell it (`tell_when`).
    """

    context_length: int
    """Most tokens of a prompt and what follows it; known once loaded."""
    slots: int
    """How many sequences it writes at once."""
    has_chat_template: bool
    """Whether it takes messages, or prompts only."""

    def load(self, request: LoadRequest) -> None:
        """Raises InvalidInput if the files are no model that it loads."""

    def has_room(self, generation: Generation) -> bool:
        """Whether its memory has room for one more, besides those that it writes."""

    def start(self, number: int, generation: Generation, sink: Sink) -> None:
        """Begins a sequence and returns at once. The caller minds `slots` and `has_room`."""

    def cancel(self, number: int) -> None:
        """Ends a sequence within a step; the sink is told `cancelled` with the true counts."""

    def close(self) -> None:
        """Ends all sequences; nothing can be started any more."""


def hear_steps(generator: Generator, listener: Callable[[], None]) -> None:
    """From now on `listener` is called after each step, if the engine has steps."""
    if hasattr(generator, "after_step"):
        generator.after_step = listener


def tell_when(generator: Generator, is_time: Callable[[], bool]) -> bool:
    """From now on the engine keeps what a sequence writes after its first words, and tells it with
    its end, or with the next step for which it asked `is_time`, once per step, and had a yes. False
    of an engine that tells everything at once."""
    if not hasattr(generator, "is_time"):
        return False
    generator.is_time = is_time
    return True


def take_turns(
    generator: Generator, has_work: Callable[[], None]
) -> Callable[[], float | None] | None:
    """What the caller has to call from now on for the engine to get on, in one thread and after
    each call of `has_work`, which comes from any thread. It returns the seconds after which to call
    it again, 0 for at once, or None if there is nothing to do. None: the engine turns itself."""
    taken = getattr(generator, "take_turns", None)
    return None if taken is None else taken(has_work)


@cache
def numpy_dtype(datatype: str) -> np.dtype[Any]:
    """The little-endian numpy dtype of an Open Inference Protocol datatype (object for BYTES)."""
    from_name = {"BYTES": "object", "BOOL": "bool", "FP16": "float16", "FP32": "float32"}
    name = from_name.get(datatype) or datatype.lower().replace("fp", "float")
    return np.dtype(name).newbyteorder("<") if name != "object" else np.dtype(object)
