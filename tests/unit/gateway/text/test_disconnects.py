"""Many streams of which some clients hang up: nothing stays behind, and every token is counted."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from maas.gateway.metering import COMPLETION, PROMPT
from tests.support.fakes.text_replica import TOKEN, Doors, doors, words
from tests.support.gateway import wait_for

STREAMS, ROUNDS, LEAVE = 64, 5, 0.3


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Doors]:
    with doors(tmp_path) as running:
        yield running


async def _client(port: int, number: int, leaves_after: float | None) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    asked = {
        "model": "writer", "stream": number % 4 != 0, "n": 1 + (number % 16 == 1),
        "messages": [{"role": "user", "content": str(number)}],
    }  # fmt: skip
    data = json.dumps(asked).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    writer.write(head.encode() + data)
    try:
        async with asyncio.timeout(leaves_after):
            return await reader.read()
    except TimeoutError:
        return b"left"
    finally:
        writer.transport.abort()


def test_who_hangs_up_leaves_nothing_behind_and_is_counted(door: Doors) -> None:
    door.use(lambda g: words(*["word "] * 20, pause=0.005))
    choose = random.Random(3)

    async def clients() -> list[bytes]:
        leave = [
            choose.uniform(0, 0.12) if choose.random() < LEAVE else None for _ in range(STREAMS)
        ]
        asked = (_client(door.port, n, after) for n, after in enumerate(leave))
        answers = await asyncio.gather(*asked)
        return [a for a, after in zip(answers, leave, strict=True) if after is None]

    tasks: list[int] = []
    for _ in range(ROUNDS):
        for answer in asyncio.run(clients()):
            assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 429")), answer[:200]
            streamed = b"text/event-stream" in answer
            assert not streamed or b"data: [DONE]" in answer[-40:], answer[-200:]
        wait_for(lambda: not door.writer.running and not door.service.active, 1.0)
        door.call(lambda: tasks.append(len(asyncio.all_tasks(door.loop))))
    assert tasks[-1] <= tasks[0]
    totals = list(door.totals().values())
    assert sum(t[COMPLETION] for t in totals) == door.writer.completion_tokens > 0
    # Two choices of one request share their prompt, and are two for the engine.
    assert sum(t[PROMPT] for t in totals) <= door.writer.prompt_tokens
    assert door.writer.cancelled > 0
