"""Base classes of runtimes: the code that loads one kind of model and runs it.

A `Runtime` maps rows of tensors to rows of tensors. A `Generator` produces text token by token, for
many sequences at a time. `catalog` finds the class for a runtime's name, also in other installed
packages; docs/howto/add-a-runtime.md shows how to write one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from maas.domain.errors import MaasError
from maas.domain.generation import Ending, Generation, Piece
from maas.domain.signature import Signature

Arrays = dict[str, NDArray[Any]]
"""Tensors by name, each with the batch dimension first."""

EngineEvent = Piece | Ending | MaasError
"""A piece of a sequence's text, or its end: an ending with the counts, or an error."""
Sink = Callable[[int, EngineEvent], None]
"""Callback for a sequence's output: the sequence's number and an event, from any thread.

An ending or an error is the last event of a sequence. An empty piece reports progress, such as a
further part of a long prompt. The callback returns quickly and does not raise."""
StepFunction = Callable[[], float | None]
"""Runs one step of an engine. Returns the seconds until the next call, 0 for at once, or None if
there is no work."""


@dataclass(frozen=True)
class LoadRequest:
    """The files of a variant, checked against their SHA-256, and how to load them."""

    files: dict[str, bytes]
    """Contents by file name; empty for a class with `opens_files`."""
    signature: Signature
    threads: int = 1
    """Threads to compute with. More take cores from other replicas."""
    options: dict[str, Any] = field(default_factory=dict)
    """The variant's options, as published: JSON values, not validated."""
    paths: dict[str, Path] = field(default_factory=dict)
    """Paths by file name, for libraries that open files themselves. The file at a path is named by
    its digest. Only this user can write there, so a file is still what was checked."""
    max_batch: int = 64
    """Most rows per `predict`, or sequences at a time."""
    engines_file: Path | None = None
    """The operator's file of external engines, for the runtime `upstream`."""


class Runtime(ABC):
    """A model that maps rows of tensors to rows of tensors.

    A replica creates an instance without arguments, calls `load` once, `predict` for every batch
    and `close` at the end. The calls never overlap, but `predict` runs in another thread than
    `load`. The process has this one model.

    A subclass overrides `load` and `predict`, and where the defaults do not fit, `close` and the
    attributes below.
    """

    opens_files: ClassVar[bool] = False
    """Whether the library opens the files itself: `load` then gets `LoadRequest.paths`, and
    `LoadRequest.files` is empty. For models of many gigabytes."""
    takes_bytes: ClassVar[bool] = False
    """Whether elements of BYTES inputs are `bytes`, such as encoded images or audio, rather than
    `str`."""
    silent_seconds: float = 0.0
    """Seconds that a `predict` may take without progress, in addition to what the deployment
    allows every model, before the replica counts as stuck and is replaced."""
    last_progress: float = 0.0
    """Time of the latest progress within a `predict`, in seconds of `time.monotonic()`. A `predict`
    that takes many seconds sets it now and then, so that the replica does not count as stuck.
    Another thread reads it."""

    @abstractmethod
    def load(self, request: LoadRequest) -> None:
        """Loads the model. Its memory is the process's own; nothing limits it here.

        Raises InvalidInput if the files are not a model of this kind, do not match the signature,
        or an option is unknown or out of range; the person who deploys sees the message.
        """

    @abstractmethod
    def predict(self, inputs: Arrays) -> Arrays:
        """Returns every output of the signature, [n, …], for every input of it, [n, …].

        Dtypes are those of the signature in little-endian order (`numpy_dtype`); outputs are
        converted to them. BYTES are object arrays of `str`. n is from 1 to
        `LoadRequest.max_batch`. Inputs are read-only.

        Raises InvalidInput for rows that the model cannot take, and InferenceFailed if it fails on
        them. The replica tries the rows of a failed batch again by themselves.
        """

    def close(self) -> None:  # noqa: B027 - most models have nothing to release
        """Releases what outlives the process, such as temporary files; nothing is called after it.

        The default does nothing. A process that is killed does not call it.
        """


class Generator(ABC):
    """A model that generates text token by token, for many sequences at a time: an engine.

    A replica creates an instance without arguments and calls `load` once. Afterwards it calls
    `has_room`, `start` and `cancel` from its event loop, which must not block, and at the end
    `close` from another thread. Output comes back through sinks, from any thread.

    Three promises hold for every engine: an ending has the exact counts, and the counts of the
    pieces before it add up to them; a cancelled sequence ends within one step; what the engine
    cannot do is refused with InvalidInput, never ignored.

    A subclass overrides the abstract methods and sets the three attributes in `load`. Engines that
    step all sequences at once should also override `on_step`, `defer_output` or `step_in_caller`;
    `text/stepped_engine.py` has them.
    """

    opens_files: ClassVar[bool] = True
    """As for `Runtime`."""
    context_length: int = 0
    """Most tokens of a sequence, prompt included."""
    slots: int = 1
    """Number of sequences that the engine runs at a time."""
    has_chat_template: bool = False
    """Whether it takes messages, or prompts only."""

    @abstractmethod
    def load(self, request: LoadRequest) -> None:
        """Loads the model and starts the engine.

        Memory for `slots` sequences, such as the KV cache, is reserved here, so that a model that
        does not fit fails here and not under load. Raises InvalidInput as `Runtime.load` does.
        """

    @abstractmethod
    def has_room(self, generation: Generation) -> bool:
        """Whether there is memory for one more sequence beside the running ones."""

    @abstractmethod
    def start(self, number: int, generation: Generation, sink: Sink) -> None:
        """Starts a sequence and returns at once; refusals go to the sink, too.

        The caller respects `slots` and `has_room`, except for control's probe: one more short
        sequence at any time.
        """

    @abstractmethod
    def cancel(self, number: int) -> None:
        """Ends a sequence within one step, with the ending `cancelled` and the true counts. Does
        nothing if no such sequence runs."""

    @abstractmethod
    def close(self) -> None:
        """Ends all sequences and releases the model. Blocks until every sink has its last event."""

    def on_step(self, callback: Callable[[], None]) -> None:  # noqa: B027 - optional
        """Has `callback` called after each step, in the engine's thread, when the sinks of all
        sequences have been called. The default ignores it: the sequences have no common step."""

    def defer_output(self, is_due: Callable[[], bool]) -> bool:
        """Has the engine collect text after a sequence's first piece, for fewer and longer pieces.

        The engine calls `is_due` once per step and emits the collected text if it returns True, or
        when a sequence ends. Returns False, the default, if the engine emits every step.
        """
        return False

    def step_in_caller(self, has_work: Callable[[], None]) -> StepFunction | None:
        """Hands the engine's steps to the caller, for an engine that holds the GIL while it steps.

        The caller runs the returned function in one thread, whenever `has_work` has been called,
        from any thread, and as often as the function asks for. None, the default: the engine steps
        in a thread of its own.
        """
        return None


class Scorer(Generator):
    """An engine that also tells the probability of a given text, to compare variants.

    Replicas do not need it. The constructor takes a text, whose tokens are in `ids` after `load`.
    """

    ids: list[int]
    """Tokens of the text, with those that the model puts around every text."""
    never_ends: bool = False
    """Whether answers always have `max_tokens` tokens, because end-of-text tokens are ignored."""

    @abstractmethod
    def scores(self, chunks: list[list[int]]) -> list[list[float]]:
        """Log-probabilities of the tokens of each chunk but its first, given those before it.

        Natural logarithms, one list per chunk of token ids. Raises InferenceFailed.
        """


@cache
def numpy_dtype(datatype: str) -> np.dtype[Any]:
    """The little-endian numpy dtype of an Open Inference Protocol datatype (object for BYTES)."""
    numpy_names = {"BYTES": "object", "BOOL": "bool", "FP16": "float16", "FP32": "float32"}
    name = numpy_names.get(datatype) or datatype.lower().replace("fp", "float")
    return np.dtype(name).newbyteorder("<") if name != "object" else np.dtype(object)
