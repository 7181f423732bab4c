"""Many streams whose clients partly disconnect: nothing leaks and every token is counted."""

from __future__ import annotations

import asyncio
import json
import random

from maas.gateway.metering import COMPLETION, PROMPT
from tests.support.fakes.text_replica import TOKEN, TextGateway, words
from tests.support.gateway import wait_for

STREAMS, ROUNDS, DISCONNECTING = 64, 5, 0.3


async def _client(port: int, number: int, disconnect_after: float | None) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = {
        "model": "llm", "stream": number % 4 != 0, "n": 1 + (number % 16 == 1),
        "messages": [{"role": "user", "content": str(number)}],
    }  # fmt: skip
    data = json.dumps(request).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    writer.write(head.encode() + data)
    try:
        async with asyncio.timeout(disconnect_after):
            return await reader.read()
    except TimeoutError:
        return b"disconnected"
    finally:
        writer.transport.abort()


def test_disconnected_clients_leak_nothing_and_are_metered(text_gateway: TextGateway) -> None:
    text_gateway.use(lambda g: words(*["word "] * 20, pause=0.005))
    generator = random.Random(3)

    async def clients() -> list[bytes]:
        delays: list[float | None] = []
        for _ in range(STREAMS):
            disconnects = generator.random() < DISCONNECTING
            delays.append(generator.uniform(0, 0.12) if disconnects else None)
        requests = (_client(text_gateway.port, n, delay) for n, delay in enumerate(delays))
        answers = await asyncio.gather(*requests)
        return [answer for answer, delay in zip(answers, delays, strict=True) if delay is None]

    tasks: list[int] = []
    for _ in range(ROUNDS):
        for answer in asyncio.run(clients()):
            assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 429")), answer[:200]
            streamed = b"text/event-stream" in answer
            assert not streamed or b"data: [DONE]" in answer[-40:], answer[-200:]
        wait_for(lambda: not text_gateway.replica.running and not text_gateway.service.active, 1.0)
        text_gateway.call(lambda: tasks.append(len(asyncio.all_tasks(text_gateway.loop))))
    assert tasks[-1] <= tasks[0]
    totals = list(text_gateway.totals().values())
    assert sum(t[COMPLETION] for t in totals) == text_gateway.replica.completion_tokens > 0
    # The choices of one request share a prompt, which the replica counts twice.
    assert sum(t[PROMPT] for t in totals) <= text_gateway.replica.prompt_tokens
    assert text_gateway.replica.cancelled > 0
