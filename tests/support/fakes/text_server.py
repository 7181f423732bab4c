"""A replica's text server with a scripted engine, and a link to it over a unix socket."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from maas.domain.deployments import Scaling
from maas.domain.generation import Ending
from maas.serving.replica.generation_server import GeneratorServer
from maas.serving.routing.dispatch import ReplicaLink
from maas.serving.wire.elements import bytes_elements
from maas.serving.wire.generation_frames import unpack_pieces
from maas.serving.wire.messages import FrameKind, Priority
from maas.serving.wire.tensors import Tensor
from tests.support.fakes.generations import (
    TEXT_TO_TEXT,
    Scripted,
    generator_spec,
)

DONE = Ending("stop", 5, 2)
CANCELLED = Ending("cancelled", 3, 1)
"""The ending that Scripted emits for a canceled sequence."""


class CountingLink(ReplicaLink):
    """Records the number of steps in each PIECES frame."""

    def frame_received(self, kind: int, body: memoryview) -> None:
        if kind == FrameKind.PIECES:
            FRAME_SIZES.append(len(unpack_pieces(body)))
        super().frame_received(kind, body)


FRAME_SIZES: list[int] = []


def run(
    work: Callable[[ReplicaLink, Scripted, GeneratorServer], Awaitable[None]],
    engine: Scripted | None = None,
    scaling: Scaling | None = None,
    stream_ms: int | None = None,
) -> Scripted:
    used = engine or Scripted()
    options = {} if stream_ms is None else {"stream_ms": stream_ms}

    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="r") as home:
            spec = generator_spec(str(Path(home) / "s"), scaling, options)
            server = GeneratorServer(spec, used)
            await server.listen()
            link = await CountingLink.connect(str(Path(home) / "s"))
            await work(link, used, server)
            link.close()
            await server.drain()

    FRAME_SIZES.clear()
    uvloop.run(main())
    return used


async def predict_texts(
    link: ReplicaLink, *texts: str, priority: Priority = Priority.NORMAL, seconds: float = 5
) -> list[str]:
    data = b"".join(len(t.encode()).to_bytes(4, "little") + t.encode() for t in texts)
    tensor = Tensor("BYTES", (len(texts),), data)
    deadline = time.monotonic() + seconds
    answer = await link.predict(TEXT_TO_TEXT, {"prompt": tensor}, len(texts), deadline, priority)
    return [text.decode() for text in bytes_elements(answer["text"].data)]


def record_progress(link: ReplicaLink) -> list[tuple[int, int, int]]:
    """Collects microseconds and token counts of later PROGRESS frames that match a call."""
    progress: list[tuple[int, int, int]] = []
    handle = link._progress_received

    def record(raw: dict[str, Any]) -> None:
        if int(raw["id"]) in link._in_parts or int(raw["id"]) in link.pending:
            tokens = (raw.get("prompt_tokens", 0), raw.get("completion_tokens", 0))
            progress.append((raw["compute_us"], *tokens))
        handle(raw)

    link._progress_received = record  # type: ignore[method-assign]
    return progress
