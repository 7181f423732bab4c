"""A generator and a call for tests: one emits events on demand, the other records them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from maas.domain.deployments import LocalFile, ReplicaSpec, Scaling
from maas.domain.errors import MaasError
from maas.domain.generation import Ending, Generation, Piece
from maas.domain.signature import Signature, TensorSpec
from maas.runtimes.base import EngineEvent, Generator, LoadRequest, Sink
from maas.serving.routing.generation_call import GenerationCall
from maas.serving.wire.messages import Priority
from tests.support.fakes.replica_peer import until

TEXT_TO_TEXT = Signature(
    (TensorSpec("prompt", "BYTES"),), (TensorSpec("text", "BYTES"),), example={"prompt": "Hello"}
)


def generator_spec(
    socket: str, scaling: Scaling | None = None, options: dict[str, Any] | None = None
) -> ReplicaSpec:
    return ReplicaSpec(
        "r", "d", "m", 1, "gguf", "llama_cpp", (LocalFile("f", "f", "0" * 64),), TEXT_TO_TEXT,
        scaling or Scaling(), socket, options or {}, drain_s=2.0,
    )  # fmt: skip


class Scripted(Generator):
    """An engine whose sequences emit only what tests pass to `emit`."""

    def __init__(self, slots: int = 2, room: int = 1000) -> None:
        self.context_length = 100
        self.slots = slots
        self.has_chat_template = True
        self.room = room
        """Tokens of all sequences together, by their `max_tokens`."""
        self.started: list[int] = []
        self.generations: dict[int, Generation] = {}
        self.sinks: dict[int, Sink] = {}
        self.cancelled: list[int] = []
        self.is_closed = False

    def load(self, request: LoadRequest) -> None:
        raise NotImplementedError

    def has_room(self, generation: Generation) -> bool:
        reserved = sum(self.generations[key].max_tokens or 0 for key in self.sinks)
        return reserved + (generation.max_tokens or 0) <= self.room

    def start(self, number: int, generation: Generation, sink: Sink) -> None:
        self.started.append(number)
        self.generations[number] = generation
        self.sinks[number] = sink

    def cancel(self, number: int) -> None:
        self.cancelled.append(number)
        self.emit(number, Ending("cancelled", 3, 1))

    def close(self) -> None:
        self.is_closed = True

    def emit(self, number: int, event: EngineEvent) -> None:
        sink = self.sinks[number]
        if not isinstance(event, Piece):
            del self.sinks[number]
        sink(number, event)


class TextCall(GenerationCall):
    """Records its pieces and its end."""

    __slots__ = ("ends", "pieces", "raises")

    def __init__(
        self,
        text: str = "Hi",
        seconds: float = 30.0,
        tenant: int = 1,
        priority: Priority = Priority.NORMAL,
        raises: bool = False,
        **fields: Any,
    ) -> None:
        """With `raises`, the callback for a piece raises. `fields` are those of the generation."""
        messages = None if "prompt" in fields else [{"role": "user", "content": text}]
        generation = Generation(messages, **fields)
        super().__init__(generation, time.monotonic() + seconds, tenant, priority)
        self.pieces: list[Piece] = []
        self.ends: list[Ending | MaasError] = []
        self.raises = raises

    def generated(self, piece: Piece) -> None:
        self.pieces.append(piece)
        if self.raises:
            raise ZeroDivisionError

    def ended(self, ending: Ending) -> None:
        self.ends.append(ending)

    def failed(self, error: MaasError) -> None:
        self.ends.append(error)

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def ending(self) -> Ending:
        (end,) = self.ends
        if not isinstance(end, Ending):
            raise AssertionError(f"failed with {end!r}")
        return end

    @property
    def error(self) -> MaasError:
        (end,) = self.ends
        if not isinstance(end, MaasError):
            raise AssertionError(f"ended with {end!r}")
        return end

    async def over(self, seconds: float = 10.0) -> TextCall:
        await until(lambda: self.ends, seconds)
        return self


def has_pieces(call: TextCall, count: int = 1) -> Callable[[], bool]:
    """A condition: `call` has at least `count` pieces."""
    return lambda: len(call.pieces) >= count
